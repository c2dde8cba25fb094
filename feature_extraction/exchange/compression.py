"""A store's features compressed, image by image, in a file that other programs can read as well.

Each image is one frame of Zstandard in one chunk, with the HDF5 filter registered for it (32015):
this program reads it without HDF5, others need that filter, as `hdf5plugin` has it. Nothing goes
before it: shuffling bytes or bits, which helps with dense numbers, spoils the runs of zeros that
towers with ReLU leave, and those are what there is to gain (`benchmarks/compression.py`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError
from feature_extraction.store.filters import ZSTD
from feature_extraction.store.hdf5_writer import Hdf5Writer
from feature_extraction.store.layout import HDF5_FORMAT, Status, write_table
from feature_extraction.store.store import FeatureStore, holds_same
from feature_extraction.store.targets import check_target, remove_leftovers, written_whole

if TYPE_CHECKING:
    from feature_extraction.extract import OnProgress  # needs torch, which this does not

# V tokens, C channels

__all__ = ["compress_store"]

# More makes ReLU features no smaller, and takes twice the time.
LEVEL = 1
IMAGES_BETWEEN_REPORTS = 256
COMPRESSED = "compressed"


def compress_store(path: Path, out: Path, *, on_progress: "OnProgress | None" = None) -> None:
    """Write a store anew with its features compressed.

    The new file takes its name when it is whole. Killed before that, the same call begins again;
    the file comes out the same. Killed after that, the same call finds it finished.

    Args:
        path: A finished store.
        out: The file to make; may be `path` itself, which is then replaced. One that holds the same
            features, compressed, is left as it is.
        on_progress: Called after some images.

    Raises:
        StoreError: The store is damaged or not finished, `out` is another file that exists, or it
            cannot be written.
    """
    store = FeatureStore(path)
    check_target(out)
    replaces = out.exists() and out.samefile(path)
    if store.compression == "zstd" if replaces else _is_compressed(out, store):
        remove_leftovers(out)
        return
    if out.exists() and not replaces:
        raise StoreError(f"{out} exists. Remove it if it is not needed, or give another --out.")
    pending = sum(status not in (Status.DONE, Status.FAILED) for status in store.status)
    if pending:
        raise StoreError(
            f"{path} is not finished: {pending:,} images are pending. Run its extraction again."
        )
    with written_whole(out, COMPRESSED) as temporary:
        _write(store, temporary, on_progress)


def _is_compressed(out: Path, store: FeatureStore) -> bool:
    """Whether `out` is what compressing `store` makes."""
    if not out.exists():
        return False
    try:
        found = FeatureStore(out)
        is_of_its_kind = found.compression == "zstd" and found.shard == store.shard
        return is_of_its_kind and holds_same(found, [store])
    except StoreError:
        return False


def _write(store: FeatureStore, path: Path, on_progress: "OnProgress | None") -> None:
    listed = store.listed_ids
    shape = (len(listed), store.tokens, store.channels)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, *shape[1:]))
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    # Optional, as `hdf5plugin` has it: HDF5 then makes the dataset without having the filter.
    properties.set_filter(ZSTD, h5py.h5z.FLAG_OPTIONAL, (LEVEL,))
    reasons = [store.failures.get(image_id, "") for image_id in listed]
    table = (store.spec, listed, store.status, store.listed_sizes, reasons, store.shard)
    with Hdf5Writer(path, libver=HDF5_FORMAT) as writer:
        features = writer.do(_create_features, shape, properties)
        for row, frame in enumerate(_frames(store)):
            writer.do(_write_frame, features, row, frame)
            if on_progress is not None and (row + 1) % IMAGES_BETWEEN_REPORTS == 0:
                on_progress(row + 1, len(listed))
        writer.do(write_table, *table)
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
    # Only here: most stores are not compressed.
    from pyarrow import Codec

    codec = Codec("zstd", LEVEL)
    nothing_VC: NDArray[np.float16] = np.zeros((store.tokens, store.channels), np.float16)
    for image_id in store.listed_ids:
        features_VC = store[image_id] if image_id in store else nothing_VC
        yield codec.compress(features_VC.data.cast("B"), asbytes=True)
