"""Reading feature files: contract, workers, several files, damage, hostile files."""

import dataclasses
import multiprocessing
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from plain_stores import SPEC, features_of, write_store
from torch.utils.data import DataLoader, Dataset

from feature_extraction.errors import StoreError
from feature_extraction.exchange.join import join_stores
from feature_extraction.spec import FeatureSpec
from feature_extraction.store import open_features
from feature_extraction.store.reader import FeatureReader
from feature_extraction.store.store import FeatureStore


class TestContract:
    """The objects of the file, as h5py alone reads them."""

    def test_objects_types_and_chunks(self, path: Path) -> None:
        with h5py.File(path) as file:
            assert sorted(file) == ["features", "image_id", "image_size", "reason", "status"]
            assert file["features"].dtype == np.float16
            assert file["features"].shape == (4, 6, 10)
            assert file["features"].chunks == (1, 6, 10)
            assert np.array_equal(file["features"][:], features_of(4))
            assert h5py.check_string_dtype(file["image_id"].dtype).encoding == "utf-8"
            assert file["image_id"].asstr()[:].tolist() == ["a", "bad", "c", "dé"]
            assert file["status"].dtype == np.uint8
            assert file["status"][:].tolist() == [1, 2, 1, 1]
            assert file["image_size"].dtype == np.int32
            assert file["image_size"].shape == (4, 2)
            assert FeatureSpec.from_json(file.attrs["spec"]) == SPEC


class TestReading:
    def test_only_done_images_are_present(self, path: Path) -> None:
        store = FeatureStore(path)
        assert len(store) == 3
        assert list(store) == ["a", "c", "dé"]
        assert "a" in store
        assert "bad" not in store
        assert store.failures == {"bad": "it is broken, é"}
        assert store.missing(["x", "a", "bad", "x"]) == ["x", "bad"]
        assert (store.tokens, store.channels, store.spec) == (6, 10, SPEC)
        assert store.image_size("c") == (4, 5)

    def test_features_have_the_requested_order(self, path: Path) -> None:
        store, expected = FeatureStore(path), features_of(4)
        assert store["c"].dtype == np.float16
        assert np.array_equal(store["c"], expected[2])
        assert np.array_equal(store.read(["dé", "a", "dé"]), expected[[3, 0, 3]])
        assert store.read([]).shape == (0, 6, 10)
        store.close()
        assert np.array_equal(store["a"], expected[0])

    def test_error_for_an_image_without_features_gives_the_reason(self, path: Path) -> None:
        store = FeatureStore(path)
        with pytest.raises(StoreError, match="'bad'.*it is broken"):
            store["bad"]
        with pytest.raises(StoreError, match="'x' is missing.*extract-features"):
            store.read(["a", "x"])

    def test_pending_rows_are_never_returned(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file["status"][0] = 0
        store = FeatureStore(path)
        assert store.missing(["a"]) == ["a"]
        with pytest.raises(StoreError, match="is missing"):
            store["a"]


def compress(path: Path) -> None:
    """Rewrite the features of a file with gzip, as another tool might."""
    with h5py.File(path, "r+") as file:
        features = file["features"][:]
        del file["features"]
        file.create_dataset(
            "features", data=features, chunks=(1, *features.shape[1:]), compression="gzip"
        )


class _Rows(Dataset[torch.Tensor]):
    def __init__(self, store: FeatureReader, ids: list[str]) -> None:
        self.store, self.ids = store, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.store[self.ids[index]])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 8 worker processes:UserWarning")
@pytest.mark.parametrize(
    ("method", "workers", "kind"),
    [
        (None, 0, "block"),
        ("fork", 2, "block"),
        ("fork", 8, "block"),
        pytest.param("spawn", 2, "block", marks=pytest.mark.slow),
        (None, 0, "compressed"),
        ("fork", 2, "compressed"),
        pytest.param("spawn", 2, "compressed", marks=pytest.mark.slow),
    ],
)
def test_workers_read_what_one_process_reads(
    tmp_path: Path, method: str | None, workers: int, kind: str
) -> None:
    """Shuffled reads of an index, with open handles in the parent when the workers start."""
    ids = [f"image{number}" for number in range(40)]
    shards = [
        write_store(tmp_path / "one.h5", ids[:25]),
        write_store(tmp_path / "two.h5", ids[25:], seed=1),
    ]
    if kind == "compressed":
        for path in shards:
            compress(path)
    join_stores(shards, tmp_path / "both.h5")
    store = open_features(tmp_path / "both.h5")
    expected = np.concatenate([features_of(25), features_of(15, seed=1)])
    assert np.array_equal(store.read(ids), expected)
    order = np.random.default_rng(0).permutation(200) % 40
    context = multiprocessing.get_context(method) if method else None
    shuffled = [ids[row] for row in order]
    loader = DataLoader(
        _Rows(store, shuffled), batch_size=7, num_workers=workers, multiprocessing_context=context
    )
    found = torch.cat(list(loader)).numpy()
    assert np.array_equal(found, expected[order])
    assert np.array_equal(store.read(ids), expected)


@pytest.mark.parametrize("how", ["contiguous", "shuffled", "late"])
def test_features_laid_out_by_other_tools_read_the_same(
    path: Path, tmp_path: Path, how: str
) -> None:
    """As one block, or as chunks in any order."""
    other = tmp_path / "other.h5"
    with h5py.File(path) as old, h5py.File(other, "w") as new:
        for name in set(old) - {"features"}:
            old.copy(name, new)
        new.attrs["spec"] = old.attrs["spec"]
        features = old["features"][:]
        chunks = None if how == "contiguous" else (1, 6, 10)
        dataset = new.create_dataset("features", features.shape, "<f2", chunks=chunks)
        rows = [2, 0, 3, 1] if how == "shuffled" else [0, 1, 2, 3]
        for row in rows:
            dataset[row] = features[row]
    store = FeatureStore(other)
    assert np.array_equal(store.read(["a", "c", "dé"]), features_of(4)[[0, 2, 3]])


def test_a_store_replaced_while_in_use_is_an_error_in_new_workers(path: Path) -> None:
    """Rows of the new file may belong to other images."""
    store = FeatureStore(path)
    write_store(path, ["other", "images", "c"], seed=1)
    with pytest.raises(StoreError, match="replaced or changed after it was opened"):
        store["c"]


def test_a_pickled_store_can_be_read(path: Path) -> None:
    store = FeatureStore(path)
    first = store["a"]
    assert np.array_equal(pickle.loads(pickle.dumps(store))["a"], first)


class TestSeveralFiles:
    def test_read_as_one(self, path: Path, tmp_path: Path) -> None:
        write_store(tmp_path / "more.h5", ["x", "y"], seed=1)
        store = open_features([path, tmp_path / "more.h5"])
        assert list(store) == ["a", "c", "dé", "x", "y"]
        assert np.array_equal(store["y"], features_of(2, seed=1)[1])
        assert np.array_equal(store.read(["y", "a"])[1], features_of(4)[0])
        assert store.failures == {"bad": "it is broken, é"}
        assert store.missing(["bad", "y", "z"]) == ["bad", "z"]
        assert store.image_size("y") == (2, 3)
        with pytest.raises(StoreError, match="'bad'.*it is broken"):
            store["bad"]

    def test_other_settings_are_named(self, path: Path, tmp_path: Path) -> None:
        other = dataclasses.replace(SPEC, image_size=96)
        write_store(tmp_path / "other.h5", ["x"], spec=other)
        with pytest.raises(StoreError, match="image_size: found 96, expected 64"):
            open_features([path, tmp_path / "other.h5"])

    def test_an_image_in_two_files_is_named(self, path: Path, tmp_path: Path) -> None:
        write_store(tmp_path / "again.h5", ["c", "x"])
        with pytest.raises(StoreError, match="share images: c"):
            open_features([path, tmp_path / "again.h5"])

    def test_no_file_is_an_error(self) -> None:
        with pytest.raises(StoreError, match="no feature file"):
            open_features([])


class TestDamage:
    @pytest.mark.parametrize("kept", [0, 10, 3000, 4500, -2000, -1])
    def test_a_file_truncated_is_refused(self, path: Path, kept: int) -> None:
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(StoreError, match="copy it again"):
            FeatureStore(path)

    def test_missing_and_unfinished_files_and_folders_are_distinguished(
        self, tmp_path: Path
    ) -> None:
        with pytest.raises(StoreError, match="does not exist"):
            FeatureStore(tmp_path / "none.h5")
        (tmp_path / "half.h5.partial").mkdir()
        with pytest.raises(StoreError, match="not finished"):
            FeatureStore(tmp_path / "half.h5")
        with pytest.raises(StoreError, match="is a folder"):
            FeatureStore(tmp_path)


def _external_link(file: h5py.File) -> None:
    file["status"] = h5py.ExternalLink("elsewhere.h5", "/status")


def _soft_link(file: h5py.File) -> None:
    file["status"] = h5py.SoftLink("/image_id")


def _external_storage(file: h5py.File) -> None:
    file.create_dataset("status", (4,), "u1", external=[("/etc/hostname", 0, 4)])


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("/etc/elsewhere.h5", "status", (4,))
    file.create_virtual_dataset("status", layout)


def _references(file: h5py.File) -> None:
    file.create_dataset("status", (4,), h5py.ref_dtype)


def _variable_length(file: h5py.File) -> None:
    file.create_dataset("status", (4,), h5py.vlen_dtype(np.uint8))


def _group(file: h5py.File) -> None:
    file.create_group("status")


def _other_type(file: h5py.File) -> None:
    file["status"] = np.ones(4, np.int64)


def _other_length(file: h5py.File) -> None:
    file["status"] = np.ones(5, np.uint8)


def _declared_not_stored(file: h5py.File) -> None:
    file.create_dataset("status", (4,), "u1", chunks=(4,))


def _compressed(file: h5py.File) -> None:
    file.create_dataset("status", data=np.ones(4, np.uint8), compression="gzip")


def _nothing(file: h5py.File) -> None:
    return


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        (_external_link, "ExternalLink"),
        (_soft_link, "SoftLink"),
        (_external_storage, "external storage"),
        (_virtual, "virtual dataset"),
        (_references, "references or objects"),
        (_variable_length, "references or objects"),
        (_group, "expected a dataset"),
        (_other_type, "expected uint8"),
        (_other_length, r"expected uint8 \(4,\)"),
        (_declared_not_stored, "incomplete"),
        (_compressed, "compressed"),
        (_nothing, "/status is missing"),
    ],
)
def test_hostile_files_are_refused_before_reading(
    path: Path, replace: Callable[[h5py.File], None], message: str
) -> None:
    with h5py.File(path, "r+") as file:
        del file["status"]
        replace(file)
    with pytest.raises(StoreError, match=message):
        FeatureStore(path)


@pytest.fixture
def without_features(path: Path) -> Iterator[h5py.File]:
    with h5py.File(path, "r+") as file:
        del file["features"]
        yield file


@pytest.mark.parametrize(
    ("shape", "chunks", "message"),
    [
        ((4, 60), None, "expected float16"),
        ((4, 2**40, 2**10), (1, 1, 1), "impossible shape"),
        ((4, 6, 10), (4, 6, 10), "one image per chunk"),
        ((2**30, 6, 10), (1, 6, 10), "incomplete"),
        ((4, 6, 11), (1, 6, 11), "incomplete"),
    ],
)
def test_impossible_shapes_are_refused(
    path: Path,
    without_features: h5py.File,
    shape: tuple[int, ...],
    chunks: tuple[int, ...] | None,
    message: str,
) -> None:
    without_features.create_dataset("features", shape, "<f2", chunks=chunks)
    without_features.close()
    with pytest.raises(StoreError, match=message):
        FeatureStore(path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (None, "'spec'.*missing"),
        (np.int32(3), "not a string"),
        ("{}", "its version is None"),
        (dataclasses.replace(SPEC, channels=11).to_json(), "Do not use the file"),
    ],
)
def test_a_wrong_spec_is_refused(path: Path, spec: object, message: str) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["spec"]
        if spec is not None:
            file.attrs["spec"] = spec
    with pytest.raises(StoreError, match=message):
        FeatureStore(path)


def test_a_store_moved_elsewhere_reads_the_same(path: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    shutil.move(path, tmp_path / "moved" / "other-name.h5")
    assert np.array_equal(FeatureStore(tmp_path / "moved/other-name.h5")["a"], features_of(4)[0])
