"""A store's features compressed, image by image, in a file that other programs can read as well.

Each image is one frame of Zstandard in one chunk, with the HDF5 filter registered for it (32015):
this program reads it without HDF5, others need that filter, as `hdf5plugin` has it. Nothing goes
before it: shuffling bytes or bits, which helps with dense numbers, spoils the runs of zeros that
towers with ReLU leave, and those are what there is to gain (`benchmarks/compression.py`).
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.disk import (
    hdf5_errors_as_os_errors,
    sync_file,
    sync_folder,
    write_errors_explained,
)
from feature_extraction.errors import StoreError
from feature_extraction.filters import ZSTD
from feature_extraction.layout import HDF5_FORMAT, Status, write_table
from feature_extraction.partial import partial_folder
from feature_extraction.store import FeatureStore

if TYPE_CHECKING:
    from feature_extraction.extract import OnProgress  # needs torch, which this does not

# V tokens, C channels

__all__ = ["Compression", "compress_store"]

Compression = Literal["zstd"]

# More makes ReLU features no smaller, and takes twice the time.
LEVEL = 1
IMAGES_BETWEEN_REPORTS = 256
COMPRESSED = "compressed"


def compress_store(path: Path, out: Path, *, on_progress: "OnProgress | None" = None) -> None:
    """Write a store anew with its features compressed.

    The new file takes its name when it is whole. Killed before that, the same call begins again;
    the file comes out the same.

    Args:
        path: A finished store; one that is compressed so already is left as it is when it is `out`.
        out: The file to make; may be `path` itself, which is then replaced.
        on_progress: Called after some images.

    Raises:
        StoreError: The store is damaged or not finished, `out` is another file that exists, or it
            cannot be written.
    """
    store = FeatureStore(path)
    replaces = out.exists() and out.samefile(path)
    if replaces and store.compression == "zstd":
        return
    if out.exists() and not replaces:
        raise StoreError(f"{out} exists. Remove it if it is not needed, or give another --out.")
    pending = sum(status not in (Status.DONE, Status.FAILED) for status in store.status)
    if pending:
        raise StoreError(
            f"{path} is not finished: {pending:,} images are pending. Run its extraction again."
        )
    with write_errors_explained(out), _own_folder(out) as folder:
        _write(store, folder / COMPRESSED, on_progress)
        os.replace(folder / COMPRESSED, out)
        sync_folder(out.parent)


def _write(store: FeatureStore, path: Path, on_progress: "OnProgress | None") -> None:
    listed = store.listed_ids
    shape = (len(listed), store.tokens, store.channels)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, *shape[1:]))
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    # Optional, as `hdf5plugin` has it: HDF5 then makes the dataset without having the filter.
    properties.set_filter(ZSTD, h5py.h5z.FLAG_OPTIONAL, (LEVEL,))
    with hdf5_errors_as_os_errors(), h5py.File(path, "w", libver=HDF5_FORMAT) as file:
        features = h5py.h5d.create(
            file.id, b"features", h5py.h5t.IEEE_F16LE, h5py.h5s.create_simple(shape), properties
        )
        for row, frame in enumerate(_frames(store)):
            features.write_direct_chunk((row, 0, 0), frame)
            if on_progress is not None and (row + 1) % IMAGES_BETWEEN_REPORTS == 0:
                on_progress(row + 1, len(listed))
        reasons = [store.failures.get(image_id, "") for image_id in listed]
        write_table(
            file, store.spec, listed, store.status, store.listed_sizes, reasons, store.shard
        )
    if on_progress is not None:
        on_progress(len(listed), len(listed))
    sync_file(path)


def _frames(store: FeatureStore) -> Iterator[bytes]:
    # Only here: most stores are not compressed.
    from pyarrow import Codec

    codec = Codec("zstd", LEVEL)
    nothing_VC: NDArray[np.float16] = np.zeros((store.tokens, store.channels), np.float16)
    for image_id in store.listed_ids:
        features_VC = store[image_id] if image_id in store else nothing_VC
        yield codec.compress(features_VC.data.cast("B"), asbytes=True)


@contextmanager
def _own_folder(out: Path) -> Iterator[Path]:
    """Make the folder of a store under way, keep others out, and remove it at the end."""
    folder = partial_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if any(entry.name != COMPRESSED for entry in folder.iterdir()):
            raise StoreError(
                f"{folder} holds an extraction under way; let it end, or remove the folder"
            )
        yield folder
        folder.rmdir()
    except BlockingIOError:
        raise StoreError(
            f"another process is compressing into {out}; wait for it to end, or choose another "
            "--out"
        ) from None
    finally:
        os.close(handle)
