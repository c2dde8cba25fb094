"""Randomly damaged files and hostile files: reading them returns values or raises an error."""

import resource
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from plain_stores import SPEC, write_store
from random_damage import require_values_or_errors

from feature_extraction.errors import StoreError
from feature_extraction.exchange.compression import compress_store
from feature_extraction.exchange.join import join_stores
from feature_extraction.store.store import FeatureStore

TRIALS = 300
READ = """
import pyarrow
from feature_extraction.store import open_features

def read(path):
    store = open_features(path)
    features = store.read(list(store))
    assert features.shape[1:] == (store.tokens, store.channels), features.shape
"""


@pytest.mark.parametrize("kind", ["plain", "compressed", "index"])
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as on Linux")
def test_random_damage_gives_values_or_an_error(tmp_path: Path, kind: str) -> None:
    path = write_store(tmp_path / "plain.h5", ["a", "bad", "c", "dé"])
    if kind == "compressed":
        compress_store(path, path)
    if kind == "index":
        write_store(tmp_path / "more.h5", ["x", "y"])
        path = join_stores([path, tmp_path / "more.h5"], tmp_path / "index.h5").path
    require_values_or_errors(path, READ, TRIALS)


def _text(*ids: str) -> Callable[[h5py.File], None]:
    def replace(file: h5py.File) -> None:
        del file["image_id"]
        file.create_dataset("image_id", data=np.array(ids, h5py.string_dtype()))

    return replace


def _ids(values: np.ndarray) -> Callable[[h5py.File], None]:
    def replace(file: h5py.File) -> None:
        del file["image_id"]
        file["image_id"] = values

    return replace


def _opaque(file: h5py.File) -> None:
    values = np.array([b"a", b"b", b"c", b"d"], "V8")
    _ids(values.astype(h5py.opaque_dtype("M8[us]")) if values.dtype.kind == "M" else values)(file)


def _enumeration(file: h5py.File) -> None:
    del file["image_id"]
    file.create_dataset("image_id", (4,), h5py.enum_dtype({"a": 1}, "i4"))


def _long_spec(file: h5py.File) -> None:
    file.attrs["spec"] = SPEC.to_json() + " " * 2**21


def _reference_for_spec(file: h5py.File) -> None:
    file.attrs["spec"] = file["status"].ref


def _references_for_shard(file: h5py.File) -> None:
    file.attrs.create("shard", [file.ref] * 3, dtype=h5py.ref_dtype)


def _named_type(file: h5py.File) -> None:
    del file["status"]
    file["status"] = np.dtype("u1")


def _group_in_itself(file: h5py.File) -> None:
    del file["features"]
    file["features"] = file["/"]


def _another_float(file: h5py.File) -> None:
    del file["features"]
    other = h5py.h5t.IEEE_F16LE.copy()
    other.set_fields(15, 7, 8, 0, 7)
    other.set_ebias(127)
    space = h5py.h5s.create_simple((4, 6, 10))
    h5py.h5d.create(file.id, b"features", other, space)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_text("a", "b", "c", ""), "expected names"),
        (_text("a", "b", "c", "x" * 5000), "expected names"),
        (_text("a", "b", "c", "b"), "more than once: b"),
        (_ids(np.array([b"a", b"b\0c", b"d", b"e"])), "expected names"),
        (_ids(np.zeros(4, [("name", "S4"), ("number", "i4")])), "expected UTF-8"),
        (_opaque, "expected UTF-8"),
        (_enumeration, "expected UTF-8"),
        (_long_spec, r"2,\d+,\d+ characters, expected at most"),
        (_reference_for_spec, "not a string"),
        (_references_for_shard, "not a string"),
        (_named_type, "Datatype, expected a dataset"),
        (_group_in_itself, "Group, expected a dataset"),
        (_another_float, "expected float16"),
    ],
)
def test_files_that_extraction_does_not_write_are_refused(
    path: Path, change: Callable[[h5py.File], None], message: str
) -> None:
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(StoreError, match=message):
        FeatureStore(path)


def test_ids_of_other_tools_may_have_any_length(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        _text("a", "../b", "ç", "dé")(file)
    assert list(FeatureStore(path)) == ["a", "ç", "dé"]
    assert "../b" in FeatureStore(path).failures


def test_a_user_block_is_refused(path: Path) -> None:
    """Some versions of HDF5 would then report wrong offsets."""
    content = path.read_bytes()
    path.write_bytes(bytes(512) + content)
    with pytest.raises(StoreError, match="512 bytes that are not HDF5"):
        FeatureStore(path)


@pytest.mark.parametrize("name", ["image_id", "reason"])
def test_text_shared_by_many_images_is_not_expanded(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand images that share one megabyte of text would expand to 1 GB."""
    ids = ["bad"] + [f"image{number}" for number in range(999)]
    path = write_store(tmp_path / "store.h5", ids)
    with h5py.File(path, "r+") as file:
        del file[name]
        text = np.array(["x" * 2**20] + [""] * 999, h5py.string_dtype())
        offset = file.create_dataset(name, data=text).id.get_offset()
        file["status"][:] = 2
    content = bytearray(path.read_bytes())
    content[offset : offset + 16000] = content[offset : offset + 16] * 1000
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError, match="more text than the"):
        FeatureStore(path)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 300


def test_counts_that_the_file_cannot_hold_are_refused_before_reading(path: Path) -> None:
    content = path.read_bytes()
    with h5py.File(path, "r+") as file:
        for name in ("image_id", "status", "image_size", "reason", "features"):
            shape, dtype = (2**30, *file[name].shape[1:]), file[name].dtype
            del file[name]
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            properties.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
            kind = h5py.h5t.py_create(dtype, logical=True)
            space = h5py.h5s.create_simple(shape)
            h5py.h5d.create(file.id, name.encode(), kind, space, properties)
    assert path.stat().st_size < 3 * len(content)
    with pytest.raises(StoreError, match="incomplete"):
        FeatureStore(path)
