"""Names of images and of features in files of other programs."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from feature_extraction.errors import StoreError
from feature_extraction.exchange.foreign import find
from feature_extraction.exchange.foreign.find import find_features
from feature_extraction.exchange.importing import import_features
from feature_extraction.store.store import FeatureStore

VALUES = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
IDS = ["b", "a", "c"]


def imported_ids(source: Path, folder: Path) -> list[str]:
    assert not import_features(source, folder / "out.h5").failures
    store = FeatureStore(folder / "out.h5")
    assert np.array_equal(store.read(IDS)[:, 0], VALUES.astype(np.float16))
    return list(store)


@pytest.mark.parametrize("name", ["image_embeds", "arr_0", "last_hidden_state", "val_img_feats"])
class TestFeaturesUnderOtherNames:
    def test_of_hdf5(self, tmp_path: Path, name: str) -> None:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.update({name: VALUES, "image_ids": IDS})
        assert imported_ids(tmp_path / "x.h5", tmp_path) == IDS

    def test_of_parquet(self, tmp_path: Path, name: str) -> None:
        pq.write_table(pa.table({"key": IDS, name: list(VALUES)}), tmp_path / "x.parquet")
        assert imported_ids(tmp_path / "x.parquet", tmp_path) == IDS

    def test_without_names_are_not_mistaken_for_one_image(self, tmp_path: Path, name: str) -> None:
        np.savez(tmp_path / "x.npz", **{name: VALUES})
        with pytest.raises(StoreError, match="many images, but there are no image names"):
            find_features(tmp_path / "x.npz")


def npz(folder: Path) -> Path:
    np.savez(folder / "x.npz", VALUES)
    return folder / "x.npz"


def safetensors(folder: Path) -> Path:
    save_file({"image_embeds": VALUES}, folder / "x.safetensors")
    return folder / "x.safetensors"


@pytest.mark.parametrize("write", [npz, safetensors])
@pytest.mark.parametrize("is_folder", [False, True])
def test_names_next_to_a_file_of_arrays_belong_to_its_rows(
    tmp_path: Path, write: Callable[[Path], Path], is_folder: bool
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    path = write(source)
    (source / "image_ids.txt").write_text("".join(f"{each}.jpg\n" for each in IDS))
    assert imported_ids(source if is_folder else path, tmp_path) == IDS


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".h5"])
def test_a_file_with_a_name_for_many_images_is_not_one_image(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"train_features{suffix}").write_bytes(b"whatever it holds")
    with pytest.raises(StoreError, match="features of many images; to import them, pass the file"):
        find_features(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["\ufeffb\na\nc\n", "b\r\na\r\nc\r\n\r\n", "b\na\nc"],
    ids=["byte-order mark", "empty lines at the end", "no end of the last line"],
)
def test_lists_of_names_as_editors_save_them(tmp_path: Path, text: str) -> None:
    np.save(tmp_path / "features.npy", VALUES)
    (tmp_path / "image_ids.txt").write_bytes(text.encode())
    assert imported_ids(tmp_path, tmp_path) == IDS


def test_only_line_feeds_separate_names(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", VALUES)
    (tmp_path / "image_ids.txt").write_text("b\u2028\na\x0b1\nc\n", encoding="utf-8")
    assert [file.image_id for file in find_features(tmp_path).files] == ["b\u2028", "a\x0b1", "c"]


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "[1" + "0" * 5000 + "]", json.dumps(dict.fromkeys(IDS)), ""]
)
def test_an_invalid_list_of_names_has_a_message_of_this_package(tmp_path: Path, text: str) -> None:
    np.save(tmp_path / "features.npy", VALUES)
    (tmp_path / "image_ids.json").write_text(text)
    with pytest.raises(StoreError, match=r"image_ids\.json: it is not a JSON list of names"):
        find_features(tmp_path)


def test_a_list_of_names_in_another_encoding_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", VALUES)
    (tmp_path / "image_ids.txt").write_text("b\na\nc\n", encoding="utf-16")
    with pytest.raises(StoreError, match=r"image_ids\.txt: it is not text in UTF-8"):
        find_features(tmp_path)


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors", "x.parquet", "x.h5", "a/image_ids.txt"])
def test_a_file_without_read_permission_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    np.save(path.parent / "a.npy", VALUES)
    path.write_bytes(b"\xff" * 99)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    # Patched, because permissions do not apply to root.
    for module, function in (
        (find, "read_small_text"),
        (find, "ZipFile"),
        (h5py, "File"),
    ):
        monkeypatch.setattr(module, function, refuse)
    monkeypatch.setattr(os, "access", lambda _, mode: mode == os.F_OK)
    with pytest.raises(StoreError, match=rf"{path.name} cannot be read: permission denied"):
        find_features(path if path.parent == tmp_path else path.parent)


def test_damage_to_names_in_parquet_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    names = [f"a name of an image, number {number:06}" for number in range(9)]
    pq.write_table(pa.table({"image_id": names, "features": [VALUES[0]] * 9}), path)
    content = bytearray(path.read_bytes())
    content[4:120] = bytes(116)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"x\.parquet is damaged or truncated"):
        find_features(path)


class TestEntriesOfHdf5:
    def test_a_group_of_features_has_a_dataset_for_each_image(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            for id_, values in zip(IDS, VALUES, strict=True):
                file[f"boxes/{id_}"] = np.zeros((1, 4))
                file[f"features/{id_}.jpg"] = values
        assert imported_ids(tmp_path / "x.h5", tmp_path) == sorted(IDS)

    def test_groups_that_contain_each_other_are_visited_once(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            group = file.create_group("a")
            for number in range(12):
                group[f"again-{number}"] = group
            file["a/b/features"] = VALUES
        assert [found.image_id for found in find_features(tmp_path / "x.h5").files] == ["b"]

    @pytest.mark.parametrize("name", [b"\xff\xfe", b"a/\xff"])
    def test_a_name_that_is_not_utf8_is_refused(self, tmp_path: Path, name: bytes) -> None:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file[name + b"/features"] = VALUES
        with pytest.raises(StoreError, match="which is not UTF-8"):
            find_features(tmp_path / "x.h5")

    def test_a_dataset_without_a_shape_is_refused(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["a/features"] = h5py.Empty("f2")
        with pytest.raises(StoreError, match=r"/a/features is empty, expected floating point"):
            import_features(tmp_path / "x.h5", tmp_path / "out.h5")
