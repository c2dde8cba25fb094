"""An index from an untrusted source is refused before anything else is opened."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from plain_shards import assert_reads_as_one, write_shards

from feature_extraction.errors import StoreError
from feature_extraction.exchange.join import join_stores
from feature_extraction.store import open_features


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return write_shards(tmp_path)


Files = list[tuple[str, int]]
GOOD: Files = [
    (f"val.shard-{number}-of-3.h5", images) for number, images in ((1, 2), (2, 3), (3, 2))
]


def replace_record(index: Path, record: object) -> None:
    """Replace the record of an index."""
    with h5py.File(index, "r+") as file:
        file.attrs["index"] = record


def record_of(files: Files, **more: object) -> str:
    return json.dumps({"files": [{"name": n, "images": i} for n, i in files], **more})


def replace_first(name: str) -> str:
    return record_of([(name, 2), *GOOD[1:]])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (replace_first("/etc/features.h5"), "refused"),
        (replace_first("../val.shard-1-of-3.h5"), "refused"),
        (replace_first("deep/../../x.h5"), "refused"),
        (replace_first("./val.shard-1-of-3.h5"), "refused"),
        (replace_first("."), "refused"),
        (replace_first(""), "refused"),
        (replace_first("val%%1.h5"), "refused"),
        (replace_first("a\nb.h5"), "refused"),
        (replace_first("a\0b.h5"), "refused"),
        (replace_first("x" * 2000), "refused"),
        (replace_first("none.h5"), "does not exist"),
        (replace_first("val.h5"), "is an index made by"),
        (replace_first("pipe"), "does not exist"),
        (record_of(GOOD[:2]), r"expected UTF-8 strings \(5,\)"),
        (record_of([*GOOD, ("more.h5", 2**30)]), "expected UTF-8 strings"),
        (record_of([GOOD[0], GOOD[1], GOOD[0]]), "other images"),
        (record_of([(GOOD[0][0], 1), (GOOD[1][0], 4), GOOD[2]]), "other images"),
        (record_of([]), "at least 1 item"),
        (record_of(GOOD, version=2), "version"),
        (record_of(GOOD, more=1), "more"),
        ("[" * 100000, "cannot be read: Invalid JSON"),
        (np.int32(3), "not a string"),
    ],
)
@pytest.mark.timeout(60)
def test_hostile_records_are_refused(
    shards: list[Path], tmp_path: Path, record: object, message: str
) -> None:
    index = join_stores(shards, tmp_path / "val.h5").path
    os.mkfifo(tmp_path / "pipe")
    replace_record(index, record_of(GOOD))
    assert_reads_as_one(index)
    replace_record(index, record)
    with pytest.raises(StoreError, match=message):
        open_features(index)


@pytest.mark.parametrize("place", ["/etc/passwd", "/dev/zero", "val.h5", "."])
def test_a_link_instead_of_a_file_is_refused(
    shards: list[Path], tmp_path: Path, place: str
) -> None:
    index = join_stores(shards, tmp_path / "val.h5").path
    shards[1].unlink()
    shards[1].symlink_to(place)
    with pytest.raises(StoreError, match="one of the files it joins cannot be used"):
        open_features(index)


def test_a_virtual_dataset_is_not_opened(shards: list[Path], tmp_path: Path) -> None:
    """A damaged description crashes HDF5; our reader does not need it."""
    index = join_stores(shards, tmp_path / "val.h5").path
    content = index.read_bytes()
    start = content.index(b"val.shard-1-of-3.h5", content.index(b"GCOL"))
    index.write_bytes(content[:start] + b"\xff" * 16 + content[start + 16 :])
    assert_reads_as_one(index)


def test_a_virtual_dataset_without_a_record_is_refused(shards: list[Path], tmp_path: Path) -> None:
    index = join_stores(shards, tmp_path / "val.h5").path
    with h5py.File(index, "r+") as file:
        del file.attrs["index"]
    with pytest.raises(StoreError, match="virtual dataset over other files; refused"):
        open_features(index)


def test_links_objects_and_impossible_shapes_are_refused(
    shards: list[Path], tmp_path: Path
) -> None:
    def external(file: h5py.File) -> None:
        file["status"] = h5py.ExternalLink("val.shard-1-of-3.h5", "/status")

    def soft(file: h5py.File) -> None:
        file["status"] = h5py.SoftLink("/image_id")

    def references(file: h5py.File) -> None:
        file.create_dataset("status", (7,), h5py.ref_dtype)

    def long(file: h5py.File) -> None:
        file.create_dataset("status", (2**40,), "u1", chunks=(1024,))

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((7,), "u1")
        layout[:2] = h5py.VirtualSource("val.shard-1-of-3.h5", "status", (2,))
        file.create_virtual_dataset("status", layout)

    replacements: list[tuple[Callable[[h5py.File], None], str]] = [
        (external, "ExternalLink"),
        (soft, "SoftLink"),
        (references, "references or objects"),
        (long, "expected uint8"),
        (virtual, "virtual dataset"),
    ]
    for replace, message in replacements:
        index = join_stores(shards, tmp_path / "val.h5").path
        with h5py.File(index, "r+") as file:
            del file["status"]
            replace(file)
        with pytest.raises(StoreError, match=message):
            open_features(index)
        index.unlink()
