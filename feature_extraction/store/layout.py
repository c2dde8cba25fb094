"""The HDF5 layout of a feature store: how it is written, and what a file must be to be read.

    /features    float16  [images, tokens, channels]   one image per chunk, row-major grid cells
    /image_id    UTF-8    [images]                     the file stem
    /status      uint8    [images]                     0 pending, 1 done, 2 failed
    /image_size  int32    [images, 2]                  original height, width in pixels; 0 if failed
    /reason      UTF-8    [images]                     why a failed image failed; empty otherwise
    attribute `spec`                                   canonical JSON of a `FeatureSpec`
    attribute `shard`                                  of a shard: JSON of a `ShardRecord`
    attribute `index`                                  of an index only: see `index.py` here

The features are one uninterrupted block of the file: they are allocated when the file is created,
before anything whose size depends on the images, so the same spec and image list put them at the
same offset every time.
"""

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError
from feature_extraction.spec import FeatureSpec
from feature_extraction.store.filters import read_filters
from feature_extraction.store.hdf5_writer import check_size_limit, hdf5_in
from feature_extraction.store.shards import SHARD_ATTRIBUTE, ShardRecord
from feature_extraction.store.texts import fixed_texts, read_text, write_text

__all__ = [
    "HDF5_FORMAT",
    "INDEX_ATTRIBUTE",
    "MOST_IMAGES",
    "MOST_VALUES_PER_IMAGE",
    "Status",
    "check_layout",
    "check_table",
    "read_spec",
    "write_layout",
    "write_table",
]

# One version, not "latest": the bytes written must not depend on the library's age. 1.10 is the
# first that stores a fully allocated chunked dataset without an index.
HDF5_FORMAT = ("v110", "v110")
PAGE_BYTES = 4096
INDEX_ATTRIBUTE = "index"

MOST_IMAGES = 2**31
MOST_VALUES_PER_IMAGE = 2**26
LONGEST_SPEC = 2**20


class Status(enum.IntEnum):
    """What became of an image; the values in `/status`."""

    PENDING = 0
    DONE = 1
    FAILED = 2


def write_layout(
    handle: int,
    name: Path,
    spec: FeatureSpec,
    image_ids: Sequence[str],
    status: NDArray[np.uint8],
    image_size: NDArray[np.int32],
    reasons: Sequence[str],
    shard: ShardRecord | None = None,
) -> int:
    """Create a store whose features are allocated but not written.

    The file is sparse: only metadata takes space until the features are written at the offset
    returned, image after image, `tokens * channels * 2` bytes each.

    Args:
        handle: An empty file in memory (`feature_extraction.store.hdf5_writer.memory_file`): a
            disk may be full, which HDF5 does not survive.
        name: A path to create, and remove at once.
        spec: How its features are made.
        image_ids: Its images, in order.
        status: uint8 `[images]`, a `Status` each.
        image_size: int32 `[images, 2]`, height and width.
        reasons: Why each failed image failed; empty for those that did not.
        shard: Which part of a larger extraction this is; `None` for a whole one.

    Returns:
        Offset of the features in the file, in bytes.

    Raises:
        OSError: The path cannot be created, or this process may not write files of that size.
    """
    images, shape = len(image_ids), (len(image_ids), spec.tokens, spec.channels)
    image_bytes = spec.tokens * spec.channels * np.dtype(np.float16).itemsize
    table = _table(image_ids, status, image_size, reasons)
    check_size_limit(images * image_bytes + sum(values.nbytes for values in table.values()))
    with hdf5_in(
        handle,
        name,
        libver=HDF5_FORMAT,
        alignment_threshold=PAGE_BYTES,
        alignment_interval=PAGE_BYTES,
    ) as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((1, *shape[1:]))
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        properties.set_obj_track_times(False)
        features = h5py.h5d.create(
            file.id, b"features", h5py.h5t.IEEE_F16LE, h5py.h5s.create_simple(shape), properties
        )
        offset = int(features.get_chunk_info(0).byte_offset)
        last = int(features.get_chunk_info(images - 1).byte_offset)
        if last != offset + (images - 1) * image_bytes:
            raise StoreError(
                "this HDF5 library does not allocate the features as one block; "
                f"h5py {h5py.version.version} with HDF5 {h5py.version.hdf5_version} was used, "
                "h5py 3.11 or later is needed"
            )
        write_table(file, spec, image_ids, status, image_size, reasons, shard)
    return offset


def write_table(
    file: h5py.File,
    spec: FeatureSpec,
    image_ids: Sequence[str],
    status: NDArray[np.uint8],
    image_size: NDArray[np.int32],
    reasons: Sequence[str],
    shard: ShardRecord | None = None,
) -> None:
    """Write everything but the features into a file that is being made."""
    for name, values in _table(image_ids, status, image_size, reasons).items():
        file.create_dataset(name, data=values, track_times=False)
    write_text(file, "spec", spec.to_json())
    if shard is not None:
        write_text(file, SHARD_ATTRIBUTE, shard.model_dump_json())


def _table(
    image_ids: Sequence[str],
    status: NDArray[np.uint8],
    image_size: NDArray[np.int32],
    reasons: Sequence[str],
) -> dict[str, NDArray[Any]]:
    return {
        "image_id": fixed_texts(image_ids),
        "status": status.astype("u1"),
        "image_size": image_size.astype("<i4"),
        "reason": fixed_texts(reasons),
    }


def check_layout(file: h5py.File) -> None:
    """Refuse a file that is not a feature store, or that could lead the reader elsewhere.

    Looks at links, types, shapes and storage only; nothing is read. What passes lies wholly in
    this one file: no soft or external links, no external storage, no virtual datasets, no object
    or reference types, no filter that is not known, and no more declared than is stored.

    Raises:
        StoreError: With what was found and what was expected.
    """
    if file.userblock_size:
        raise StoreError(
            f"the file begins with {file.userblock_size:,} bytes that are not HDF5 (a user block), "
            "expected none"
        )
    if INDEX_ATTRIBUTE in file.attrs:
        raise StoreError(
            "it is an index that `vl-lst features join` makes, expected a file that holds its own "
            "features"
        )
    features = _own_dataset(file, "features")
    _check_features_shape(features)
    images, tokens, channels = features.shape
    if features.chunks not in (None, (1, tokens, channels)):
        raise StoreError(
            f"/features has chunks of {features.chunks}, "
            f"expected one image per chunk: {(1, tokens, channels)}"
        )
    if not read_filters(features):
        _check_stored(features)
    check_table(file, images)


def _check_features_shape(features: h5py.Dataset) -> None:
    if features.ndim != 3 or not features.id.get_type().equal(h5py.h5t.IEEE_F16LE):
        raise StoreError(
            f"/features is {features.dtype} {features.shape}, "
            "expected float16 [images, tokens, channels]"
        )
    images, tokens, channels = features.shape
    if not (1 <= images <= MOST_IMAGES and 1 <= tokens * channels <= MOST_VALUES_PER_IMAGE):
        raise StoreError(f"/features has the shape {features.shape}, which no extraction makes")


def check_table(file: h5py.File, images: int) -> None:
    """Refuse a file in which anything beside the features is not as `write_table` makes it.

    Raises:
        StoreError: With what was found and what was expected.
    """
    expected = {
        "image_id": ((images,), None),
        "status": ((images,), np.dtype("u1")),
        "image_size": ((images, 2), np.dtype("<i4")),
        "reason": ((images,), None),
    }
    for name, (shape, dtype) in expected.items():
        dataset = _own_dataset(file, name)
        is_expected = (
            h5py.check_string_dtype(dataset.dtype) is not None
            if dtype is None
            else dataset.dtype == dtype
        )
        if dataset.shape != shape or not is_expected:
            raise StoreError(
                f"/{name} is {dataset.dtype} {dataset.shape}, "
                f"expected {'UTF-8 strings' if dtype is None else dtype} {shape}"
            )
        if dataset.id.get_create_plist().get_nfilters():
            raise StoreError(f"/{name} is compressed, expected plain storage")
        _check_stored(dataset)


def read_spec(file: h5py.File) -> FeatureSpec:
    """Read the attribute `spec`.

    Raises:
        StoreError: It is missing, or not a spec.
    """
    text = read_text(file, "spec", LONGEST_SPEC)
    if text is None:
        raise StoreError("the attribute 'spec', which says how the features were made, is missing")
    return FeatureSpec.from_json(text)


def _own_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Open a dataset, following no link.

    Raises:
        StoreError: It is missing, elsewhere, or holds objects or references.
    """
    # `in` and [] follow links, so the kind of link is asked first.
    if name not in set(file):
        raise StoreError(f"/{name} is missing; it is not a feature store")
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise StoreError(
            f"/{name} is a {type(link).__name__}; a store may not point elsewhere, refused"
        )
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise StoreError(f"/{name} is a {type(dataset).__name__}, expected a dataset")
    if dataset.external is not None:
        raise StoreError(f"/{name} keeps its data in other files (external storage), refused")
    if dataset.is_virtual:
        raise StoreError(f"/{name} is a virtual dataset over other files, refused")
    if h5py.check_ref_dtype(dataset.dtype) is not None or (
        dataset.dtype.hasobject and h5py.check_string_dtype(dataset.dtype) is None
    ):
        raise StoreError(f"/{name} holds references or objects, expected plain numbers or text")
    return dataset


def _check_stored(dataset: h5py.Dataset) -> None:
    declared = dataset.size * dataset.id.get_type().get_size()
    # What HDF5 says is stored is itself no more than what the file says.
    stored = min(dataset.id.get_storage_size(), dataset.file.id.get_filesize())
    if stored < declared:
        raise StoreError(
            f"{dataset.name} declares {declared:,} bytes but {stored:,} are stored; "
            "the file is incomplete"
        )
