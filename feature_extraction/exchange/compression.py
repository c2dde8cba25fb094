"""Compress a store image by image, into a file that other programs can read as well.

Each image is one Zstandard frame in one chunk, marked with the HDF5 filter registered for it
(32015). This package reads it without HDF5; other programs need that filter, for example from
`hdf5plugin`. Bytes are not shuffled: shuffling helps with dense values, but breaks up the runs of
zeros that ReLU encoders produce, which account for most of the savings
(`benchmarks/compression.py`).
"""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError
from feature_extraction.progress import OnProgress
from feature_extraction.store.filters import ZSTD
from feature_extraction.store.hdf5_writer import Hdf5Writer
from feature_extraction.store.layout import HDF5_FORMAT, write_metadata
from feature_extraction.store.outputs import atomic_output, check_output_file, remove_leftovers
from feature_extraction.store.store import FeatureStore, combine_metadata, has_same_content

# V tokens, C channels

__all__ = ["compress_store"]

# Higher levels take twice the time and make ReLU features no smaller.
LEVEL = 1
IMAGES_BETWEEN_REPORTS = 256


def compress_store(path: Path, out: Path, *, on_progress: OnProgress | None = None) -> None:
    """Write a compressed copy of a store.

    The copy appears at `out` only when it is complete. After an interruption, repeat the call: it
    starts from scratch unless the copy is complete. The result is byte-identical.

    Args:
        path: A finished store.
        out: File to create, or `path` to replace the store. A compressed file with the same
            features is left unchanged.
        on_progress: Called after every 256 images.

    Raises:
        StoreError: The store is damaged or not finished, `out` is another existing file, or it
            cannot be written.
    """
    store = FeatureStore(path)
    check_output_file(out)
    replaces = out.exists() and out.samefile(path)
    if store.compression == "zstd" if replaces else _is_compressed(out, store):
        remove_leftovers(out)
        return
    if out.exists() and not replaces:
        raise StoreError(f"{out} exists. Remove it if it is not needed, or choose another --out.")
    store.require_finished()
    with atomic_output(out, "compressed") as temporary:
        _write(store, temporary, on_progress)


def _is_compressed(out: Path, store: FeatureStore) -> bool:
    """Whether `out` is the result of compressing `store`."""
    if not out.exists():
        return False
    try:
        found = FeatureStore(out)
        return (
            found.compression == "zstd"
            and found.shard == store.shard
            and has_same_content(found, [store])
        )
    except StoreError:
        return False


def _write(store: FeatureStore, path: Path, on_progress: OnProgress | None) -> None:
    listed = store.listed_ids
    shape = (len(listed), store.tokens, store.channels)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, *shape[1:]))
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    # Optional, as in `hdf5plugin`: HDF5 then creates the dataset without having the filter.
    properties.set_filter(ZSTD, h5py.h5z.FLAG_OPTIONAL, (LEVEL,))
    with Hdf5Writer(path, libver=HDF5_FORMAT) as writer:
        features = writer.do(_create_features, shape, properties)
        for row, frame in enumerate(_frames(store)):
            writer.do(_write_frame, features, row, frame)
            if on_progress is not None and (row + 1) % IMAGES_BETWEEN_REPORTS == 0:
                on_progress(row + 1, len(listed))
        writer.do(write_metadata, combine_metadata([store], store.shard))
    if on_progress is not None:
        on_progress(len(listed), len(listed))


def _create_features(
    file: h5py.File, shape: tuple[int, int, int], properties: h5py.h5p.PropDCID
) -> h5py.h5d.DatasetID:
    space = h5py.h5s.create_simple(shape)
    return h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F16LE, space, properties)


def _write_frame(_: h5py.File, features: h5py.h5d.DatasetID, row: int, frame: bytes) -> None:
    features.write_direct_chunk((row, 0, 0), frame)


def _frames(store: FeatureStore) -> Iterator[bytes]:
    # Imported here because most users do not compress stores.
    from pyarrow import Codec

    codec = Codec("zstd", LEVEL)
    zeros_VC: NDArray[np.float16] = np.zeros((store.tokens, store.channels), np.float16)
    for image_id in store.listed_ids:
        features_VC = store[image_id] if image_id in store else zeros_VC
        yield codec.compress(features_VC.data.cast("B"), asbytes=True)
