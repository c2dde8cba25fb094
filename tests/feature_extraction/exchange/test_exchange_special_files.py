"""Pipes, devices and links to them among feature files are refused without blocking."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from feature_extraction.errors import StoreError
from feature_extraction.exchange.exporting import export_features
from feature_extraction.exchange.importing import import_features
from feature_extraction.exchange.join import join_stores
from feature_extraction.exchange.summary import summarise
from feature_extraction.store import open_features
from feature_extraction.store.store import FeatureStore

VALUES = np.ones((4, 6), np.float32)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    # Names of sockets must be short.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


SPECIAL = pytest.mark.parametrize(
    ("make", "kind"),
    [(pipe, "a named pipe"), (endless, "a device"), (listening, "a socket")],
)


def write_store(folder: Path, image_id: str = "a") -> Path:
    source = folder / f"{image_id}-source"
    source.mkdir()
    np.save(source / f"{image_id}.npy", VALUES)
    import_features(source, folder / f"{image_id}.h5")
    return folder / f"{image_id}.h5"


@SPECIAL
@pytest.mark.parametrize("suffix", [".npy", ".h5", ".safetensors", ".npz", ".parquet"])
def test_an_import_names_them(
    tmp_path: Path, make: Callable[[Path], None], kind: str, suffix: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    if suffix != ".parquet":
        np.save(source / "a.npy", VALUES)
    make(source / f"b{suffix}")
    with pytest.raises(StoreError, match=f"b{suffix} is {kind}: expected a regular file"):
        import_features(source, tmp_path / "out.h5")


@SPECIAL
def test_a_store_is_not_read(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    path = tmp_path / "store.h5"
    make(path)
    for read in (FeatureStore, open_features, summarise):
        with pytest.raises(StoreError, match="does not exist|expected a file"):
            read(path)
    whole = write_store(tmp_path)
    with pytest.raises(StoreError, match="does not exist|expected a file"):
        join_stores([whole, path], tmp_path / "out.h5")


@SPECIAL
def test_a_file_of_an_index_is_not_read(
    tmp_path: Path, make: Callable[[Path], None], kind: str
) -> None:
    members = [write_store(tmp_path, name) for name in "ab"]
    join_stores(members, tmp_path / "index.h5")
    members[1].unlink()
    make(members[1])
    with pytest.raises(StoreError, match="is an index.*(does not exist|expected a file)"):
        open_features(tmp_path / "index.h5")


def test_a_directory_named_like_a_store_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.h5").mkdir()
    np.save(tmp_path / "x.h5" / "a.npy", VALUES)
    assert import_features(tmp_path / "x.h5", tmp_path / "out.h5").images == 1
    with pytest.raises(StoreError, match="is a folder"):
        FeatureStore(tmp_path / "x.h5")


@SPECIAL
@pytest.mark.parametrize("name", ["journal.jsonl", "features", "layout"])
def test_the_folder_of_an_unfinished_store_is_checked(
    tmp_path: Path, make: Callable[[Path], None], kind: str, name: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    np.save(source / "a.npy", VALUES)
    folder = tmp_path / "out.h5.partial"
    folder.mkdir()
    (folder / "features").touch()
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises(StoreError, match=f"{name} is {kind}"):
        import_features(source, tmp_path / "out.h5")


@SPECIAL
def test_the_folder_of_an_export_is_checked(
    tmp_path: Path, make: Callable[[Path], None], kind: str
) -> None:
    store, out = FeatureStore(write_store(tmp_path)), tmp_path / "export"
    out.mkdir()
    make(out / "export.json")
    with pytest.raises(StoreError, match="holds something else"):
        export_features(store, out, "h5")


def test_a_file_of_groups_is_still_a_file(tmp_path: Path) -> None:
    path = tmp_path / "all.h5"
    with h5py.File(path, "w") as file:
        file["a/features"] = VALUES
    link = tmp_path / "link.h5"
    link.symlink_to(path)
    assert import_features(link, tmp_path / "out.h5").images == 1
    assert json.loads(FeatureStore(tmp_path / "out.h5").spec.to_json())["channels"] == 6


def test_a_pipe_that_replaced_an_open_store_does_not_block(tmp_path: Path) -> None:
    store = FeatureStore(write_store(tmp_path))
    store.path.unlink()
    os.mkfifo(store.path)
    with pytest.raises(StoreError, match="replaced or changed"):
        store["a"]


def test_an_oversized_journal_is_refused(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "out.h5.partial"
    source.mkdir()
    np.save(source / "a.npy", VALUES)
    folder.mkdir()
    (folder / "features").touch()
    with (folder / "journal.jsonl").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(StoreError, match="journal.jsonl has 1,099,511,627,776 bytes"):
        import_features(source, tmp_path / "out.h5")


@pytest.mark.parametrize("given", [None, 3])
def test_other_objects_than_paths_are_refused(given: object) -> None:
    with pytest.raises(StoreError, match="expected a path, or several in a list"):
        open_features(given)


def test_a_string_is_refused_as_a_list_of_images(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="string 'abc': expected a list of ids"):
        FeatureStore(write_store(tmp_path)).read("abc")


def test_paths_can_be_strings(tmp_path: Path) -> None:
    path = str(write_store(tmp_path))
    assert summarise(path).done == len(open_features([path])) == 1
