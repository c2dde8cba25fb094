"""Importing features in the layouts of other programs."""

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from feature_extraction.errors import StoreError
from feature_extraction.exchange.foreign import tables
from feature_extraction.exchange.foreign.find import find_features
from feature_extraction.exchange.importing import import_features
from feature_extraction.store.store import FeatureStore

GRIDS = np.random.default_rng(0).normal(size=(7, 4, 6)).astype(np.float32)
VECTORS = GRIDS[:, 0]
IDS = [f"image-{number}" for number in (3, 1, 2, 0, 6, 5, 4)]


def imported(source: Path, folder: Path) -> FeatureStore:
    result = import_features(source, folder / "out.h5")
    assert not result.failures
    return FeatureStore(folder / "out.h5")


def assert_holds(store: FeatureStore, values: np.ndarray, ids: list[str] = IDS) -> None:
    assert list(store) == ids
    expected = values.astype(np.float16)
    found = store.read(ids)
    assert np.array_equal(found, expected if values.ndim == 3 else expected[:, None])


def clip_retrieval(folder: Path, *, column: str = "image_path", parts: int = 2) -> Path:
    """Write the output of clip-retrieval: file names with unpadded numbers, rows in order."""
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    names = [f"photos/train/{id_}.jpg" for id_ in IDS]
    for number, rows in enumerate(np.array_split(np.arange(7), parts)):
        np.save(folder / f"img_emb/img_emb_{number}.npy", VECTORS[rows].astype(np.float16))
        np.save(folder / f"text_emb/text_emb_{number}.npy", VECTORS[rows])
        table = {column: [names[row] for row in rows], "caption": ["x"] * len(rows)}
        pq.write_table(pa.table(table), folder / f"metadata/metadata_{number}.parquet")
    return folder


class TestClipRetrieval:
    @pytest.mark.parametrize("column", ["image_path", "key"])
    @pytest.mark.parametrize("parts", [1, 2, 7])
    def test_it_is_imported_with_its_ids(self, tmp_path: Path, column: str, parts: int) -> None:
        folder = clip_retrieval(tmp_path / "out", column=column, parts=parts)
        store = imported(folder, tmp_path)
        assert_holds(store, VECTORS)
        assert (store.spec.layer, store.tokens) == ("pooled", 1)
        assert find_features(folder).left_out == {".npy": parts}

    def test_the_tenth_part_follows_the_ninth(self, tmp_path: Path) -> None:
        folder = tmp_path / "out"
        for name in ("img_emb", "metadata"):
            (folder / name).mkdir(parents=True)
        for number in range(11):
            np.save(folder / f"img_emb/img_emb_{number}.npy", VECTORS[:1])
            table = pa.table({"image_path": [f"{number}.jpg"]})
            pq.write_table(table, folder / f"metadata/metadata_{number}.parquet")
        assert list(imported(folder, tmp_path)) == [str(number) for number in range(11)]

    def test_the_folder_of_embeddings_is_enough(self, tmp_path: Path) -> None:
        folder = clip_retrieval(tmp_path / "out")
        assert_holds(imported(folder / "img_emb", tmp_path), VECTORS)

    def test_parts_that_do_not_belong_together_are_named(self, tmp_path: Path) -> None:
        folder = clip_retrieval(tmp_path / "out")
        np.save(folder / "img_emb/img_emb_1.npy", VECTORS[:2])
        with pytest.raises(
            StoreError, match=r"img_emb_1.npy has 2 rows.*metadata_1.parquet has 3 name"
        ):
            find_features(folder)
        (folder / "metadata/metadata_1.parquet").unlink()
        with pytest.raises(StoreError, match=r"metadata_1.parquet, does not exist"):
            find_features(folder)

    def test_embeddings_of_captions_are_not_mistaken_for_images(self, tmp_path: Path) -> None:
        folder = clip_retrieval(tmp_path / "out")
        for path in (folder / "img_emb").iterdir():
            path.unlink()
        with pytest.raises(StoreError, match="embeddings of captions, not of images"):
            find_features(folder)

    def test_other_features_among_them_are_named(self, tmp_path: Path) -> None:
        folder = clip_retrieval(tmp_path / "out")
        np.save(folder / "photo.npy", VECTORS[0])
        with pytest.raises(StoreError, match=r"photo.npy\); import them separately"):
            find_features(folder)


class TestOneFileWithOneRowPerImage:
    @pytest.mark.parametrize("name", ["image_ids", "ids", "image_id", "keys"])
    @pytest.mark.parametrize("values", [GRIDS, VECTORS], ids=["grids", "vectors"])
    def test_hdf5(self, tmp_path: Path, name: str, values: np.ndarray) -> None:
        path = tmp_path / "all.h5"
        with h5py.File(path, "w") as file:
            file["features"] = values
            file[name] = IDS
        assert_holds(imported(path, tmp_path), values)

    @pytest.mark.parametrize("ids", [np.array(IDS, "S"), np.arange(7), np.arange(7, dtype="u8")])
    def test_hdf5_with_ids_of_other_types(self, tmp_path: Path, ids: np.ndarray) -> None:
        path = tmp_path / "all.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset(
                "features", data=GRIDS, chunks=(2, 4, 6), maxshape=(None, 4, 6), compression="gzip"
            )
            file.create_dataset("ids", data=ids, compression="gzip", chunks=(4,))
        expected = IDS if ids.dtype.kind == "S" else [str(number) for number in range(7)]
        assert_holds(imported(path, tmp_path), GRIDS, expected)

    def test_resizable_hdf5_with_names_in_utf8_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / "all.h5"
        with h5py.File(path, "w") as file:
            options = {"chunks": (1000, 4, 6), "maxshape": (None, 4, 6)}
            file.create_dataset("features", data=GRIDS, **options)
            file["ids"] = np.array([f"é{number}".encode() for number in range(7)])
        assert_holds(imported(path, tmp_path), GRIDS, [f"é{number}" for number in range(7)])

    def test_under_other_names(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "all.h5", "w") as file:
            file["embeddings"], file["filenames"] = VECTORS, [f"a/{id_}.jpg" for id_ in IDS]
        np.savez(tmp_path / "all.npz", image_features=VECTORS, names=np.array(IDS))
        for name in ("all.h5", "all.npz"):
            (tmp_path / "out.h5").unlink(missing_ok=True)
            assert_holds(imported(tmp_path / name, tmp_path), VECTORS)

    def test_npz(self, tmp_path: Path) -> None:
        for save in (np.savez, np.savez_compressed):
            save(tmp_path / "all.npz", features=GRIDS, image_ids=np.array(IDS))
            assert_holds(imported(tmp_path / "all.npz", tmp_path), GRIDS)

    @pytest.mark.parametrize("suffix", [".npy", ".txt", ".json"])
    def test_npy_with_ids_next_to_it(self, tmp_path: Path, suffix: str) -> None:
        folder = tmp_path / "source"
        folder.mkdir()
        np.save(folder / "vectors.npy", VECTORS)
        if suffix == ".npy":
            np.save(folder / "ids.npy", np.array(IDS))
        else:
            text = json.dumps(IDS) if suffix == ".json" else "\n".join(IDS) + "\n"
            (folder / f"ids{suffix}").write_text(text)
        assert_holds(imported(folder, tmp_path), VECTORS)
        assert_holds(imported(folder / "vectors.npy", tmp_path), VECTORS)

    def test_safetensors_with_numbers_for_ids(self, tmp_path: Path) -> None:
        path = tmp_path / "all.safetensors"
        save_file({"features": torch.from_numpy(GRIDS), "image_ids": torch.arange(7)}, path)
        assert_holds(imported(path, tmp_path), GRIDS, [str(number) for number in range(7)])

    @pytest.mark.parametrize("kind", ["fixed", "variable", "large"])
    def test_parquet(self, tmp_path: Path, kind: str) -> None:
        folder = tmp_path / "source"
        folder.mkdir()
        for part, rows in enumerate((slice(0, 4), slice(4, 7))):
            inner = {"fixed": pa.list_(pa.float16(), 6)}.get(kind, pa.list_(pa.float16()))
            outer = pa.list_(inner, 4) if kind == "fixed" else pa.list_(inner)
            outer = pa.large_list(inner) if kind == "large" else outer
            values = GRIDS[rows].astype(np.float16)
            columns = [pa.array(IDS[rows]), pa.array([list(map(list, v)) for v in values], outer)]
            table = pa.table(columns, names=["id", "features"])
            path = folder / f"train-{part}-of-2.parquet"
            pq.write_table(table, path, row_group_size=2, compression="zstd")
        assert_holds(imported(folder, tmp_path), GRIDS)

    def test_shards_from_the_hub(self, shared_data: Path, tmp_path: Path) -> None:
        folder = shared_data / "data" / "parquet_features"
        sums = json.loads((folder / "sums.json").read_text())
        store = imported(folder, tmp_path)
        assert set(store) == set(sums)
        assert (store.tokens, store.channels) == (49, 64)
        for image_id, total in sums.items():
            assert store[image_id].astype(np.float64).sum() == pytest.approx(total, abs=1e-9)

    def test_only_a_null_row_of_parquet_fails(self, tmp_path: Path) -> None:
        rows = [None if number == 2 else list(v) for number, v in enumerate(VECTORS.tolist())]
        pq.write_table(pa.table({"id": IDS, "features": rows}), tmp_path / "all.parquet")
        result = import_features(tmp_path / "all.parquet", tmp_path / "out.h5")
        assert list(result.failures) == [IDS[2]]

    def test_only_a_shorter_row_of_parquet_fails(self, tmp_path: Path) -> None:
        rows = [v[:3] if number == 2 else v for number, v in enumerate(VECTORS.tolist())]
        pq.write_table(pa.table({"id": IDS, "features": rows}), tmp_path / "all.parquet")
        result = import_features(tmp_path / "all.parquet", tmp_path / "out.h5")
        assert list(result.failures) == [IDS[2]]

    def test_rows_before_the_end_of_a_file_truncated_are_kept(self, tmp_path: Path) -> None:
        folder = clip_retrieval(tmp_path / "out", parts=1)
        path = folder / "img_emb/img_emb_0.npy"
        path.write_bytes(path.read_bytes()[:-10])
        result = import_features(folder, tmp_path / "out.h5")
        assert list(result.failures) == [IDS[-1]]
        assert "row 6 is damaged or truncated: the file ends before it" in result.failures[IDS[-1]]

    def test_blocks_smaller_than_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tables, "BLOCK_BYTES", 2 * 4 * 4 * 6)
        names = {"features": GRIDS, "image_ids": np.array(IDS)}
        np.savez_compressed(tmp_path / "all.npz", **names)
        columns = {"id": IDS, "features": GRIDS.tolist()}
        pq.write_table(pa.table(columns), tmp_path / "all.parquet")
        with h5py.File(tmp_path / "all.h5", "w") as file:
            file.create_dataset("features", data=GRIDS, chunks=(3, 4, 6))
            file["ids"] = IDS
        for name in ("all.npz", "all.parquet", "all.h5"):
            result = import_features(tmp_path / name, tmp_path / f"{name}-out.h5")
            assert not result.failures
            assert_holds(FeatureStore(tmp_path / f"{name}-out.h5"), GRIDS)

    def test_an_interrupted_import_is_resumed_to_the_same_bytes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("feature_extraction.exchange.importing.BATCH_BYTES", 2 * 4 * 6)
        monkeypatch.setattr("feature_extraction.store.resumable_writer.SECONDS_BETWEEN_COMMITS", 0)
        pq.write_table(pa.table({"id": IDS, "features": GRIDS.tolist()}), tmp_path / "all.parquet")
        import_features(tmp_path / "all.parquet", tmp_path / "whole.h5")

        def interrupt(done: int, total: int, note: str = "") -> None:
            if done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            import_features(tmp_path / "all.parquet", tmp_path / "out.h5", on_progress=interrupt)
        assert import_features(tmp_path / "all.parquet", tmp_path / "out.h5").imported == 4
        assert (tmp_path / "out.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


class TestOneFileWithOneEntryPerImage:
    def test_datasets_of_hdf5(self, tmp_path: Path) -> None:
        path = tmp_path / "all.h5"
        with h5py.File(path, "w") as file:
            for id_, values in zip(IDS, GRIDS, strict=True):
                file[f"{id_}.jpg"] = values
        assert_holds(imported(path, tmp_path), GRIDS[np.argsort(IDS)], sorted(IDS))

    def test_groups_named_like_files(self, tmp_path: Path) -> None:
        path = tmp_path / "all.h5"
        with h5py.File(path, "w") as file:
            for id_, values in zip(IDS, GRIDS, strict=True):
                file[f"{id_}.png/features"] = values
        assert_holds(imported(path, tmp_path), GRIDS[np.argsort(IDS)], sorted(IDS))

    def test_tensors_and_arrays(self, tmp_path: Path) -> None:
        entries = {f"{id_}.jpg": values for id_, values in zip(IDS, GRIDS, strict=True)}
        save_file({k: torch.from_numpy(v) for k, v in entries.items()}, tmp_path / "a.safetensors")
        np.savez(tmp_path / "a.npz", **entries)
        for name in ("a.safetensors", "a.npz"):
            (tmp_path / "out.h5").unlink(missing_ok=True)
            assert_holds(imported(tmp_path / name, tmp_path), GRIDS[np.argsort(IDS)], sorted(IDS))

    def test_groups_in_folders(self, tmp_path: Path) -> None:
        path = tmp_path / "all.h5"
        with h5py.File(path, "w") as file:
            for id_, values in zip(IDS, GRIDS, strict=True):
                file[f"data/val/{id_}.jpg/features"] = values
            file["data/elsewhere"] = h5py.ExternalLink("other.h5", "/")
        assert_holds(imported(path, tmp_path), GRIDS[np.argsort(IDS)], sorted(IDS))


class TestOneFilePerImage:
    def test_features_at_the_top_of_hdf5_and_npz(self, tmp_path: Path) -> None:
        folder = tmp_path / "source"
        folder.mkdir()
        with h5py.File(folder / "a.h5", "w") as file:
            file["features"] = GRIDS[0]
        np.savez(folder / "b.npz", features=GRIDS[1], boxes=np.zeros((4, 4)))
        np.savez_compressed(folder / "c.npz", GRIDS[2])
        assert_holds(imported(folder, tmp_path), GRIDS[:3], ["a", "b", "c"])

    def test_an_id_can_end_in_features(self, tmp_path: Path) -> None:
        folder = tmp_path / "source"
        folder.mkdir()
        np.save(folder / "COCO_1_features.npy", GRIDS[0])
        assert_holds(imported(folder, tmp_path), GRIDS[:1], ["COCO_1_features"])

    def test_info_files_of_mmf_are_left_out(self, tmp_path: Path) -> None:
        folder = tmp_path / "source"
        folder.mkdir()
        np.save(folder / "a.npy", GRIDS[0])
        np.save(folder / "a_info.npy", np.array({"bbox": []}, object), allow_pickle=True)
        assert import_features(folder, tmp_path / "out.h5").left_out == {".npy": 1}

    @pytest.mark.parametrize("write", ["h5", "npz", "safetensors"])
    def test_many_images_are_not_mistaken_for_tokens(self, tmp_path: Path, write: str) -> None:
        folder = tmp_path / "source"
        folder.mkdir()
        path = folder / f"all.{write}"
        if write == "h5":
            with h5py.File(path, "w") as file:
                file["features"], file["image_ids"] = VECTORS, IDS
        elif write == "npz":
            np.savez(path, features=VECTORS, ids=np.array(IDS))
        else:
            save_file({"features": torch.zeros(7, 6), "ids": torch.arange(7)}, path)
        with pytest.raises(StoreError, match="many images, with their names; pass the file itself"):
            import_features(folder, tmp_path / "out.h5")


def test_an_archive_is_not_read_beyond_its_declared_array(tmp_path: Path) -> None:
    """The member is longer than its array; the rest is never unpacked."""
    np.savez(tmp_path / "a.npz", GRIDS[0])
    with zipfile.ZipFile(tmp_path / "a.npz") as made:
        data = made.read("arr_0.npy")
    folder = tmp_path / "source"
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("arr_0.npy", data + bytes(2**24))
    assert_holds(imported(folder, tmp_path), GRIDS[:1], ["a"])


def test_left_out_files_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    np.save(folder / "a.npy", GRIDS[0])
    for name in ("b.pt", "c.pt", "d.tsv", "readme.txt", ".hidden.pt"):
        (folder / name).touch()
    assert import_features(folder, tmp_path / "out.h5").left_out == {".pt": 2, ".tsv": 1}
