"""The HDF5 layout of a feature store: write it, and check a file before it is read.

    /features    float16  [images, tokens, channels]   one image per chunk, row-major grid cells
    /image_id    UTF-8    [images]                     the file stem
    /status      uint8    [images]                     0 pending, 1 done, 2 failed
    /image_size  int32    [images, 2]                  original height, width in pixels; 0 if failed
    /reason      UTF-8    [images]                     why the image failed; empty otherwise
    attribute `spec`                                   canonical JSON of a `FeatureSpec`
    attribute `shard`                                  in a shard: JSON of a `ShardRecord`
    attribute `source`                                 if imported from the Hub: JSON of a `Source`
    attribute `index`                                  in an index: see `index.py`

The features form one contiguous block. They are allocated when the file is created, before
anything whose size depends on the images, so their offset is the same for every file with the same
spec and image list.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError
from feature_extraction.spec import FeatureSpec
from feature_extraction.store.dataset_checks import check_no_user_block, check_stored, local_dataset
from feature_extraction.store.filters import read_filters
from feature_extraction.store.hdf5_text import (
    fixed_length_text,
    read_text_attribute,
    write_text_attribute,
)
from feature_extraction.store.hdf5_writer import check_size_limit, hdf5_in
from feature_extraction.store.shards import SHARD_ATTRIBUTE, ShardRecord
from feature_extraction.store.source import SOURCE_ATTRIBUTE, Source

__all__ = [
    "HDF5_FORMAT",
    "INDEX_ATTRIBUTE",
    "MAX_IMAGES",
    "MAX_VALUES_PER_IMAGE",
    "Metadata",
    "Status",
    "check_layout",
    "check_table",
    "read_spec",
    "write_layout",
    "write_metadata",
]

# A fixed version, so that all versions of the library write the same bytes. 1.10 is the first that
# stores a fully allocated chunked dataset without an index.
HDF5_FORMAT = ("v110", "v110")
PAGE_BYTES = 4096
INDEX_ATTRIBUTE = "index"

MAX_IMAGES = 2**31
MAX_VALUES_PER_IMAGE = 2**26
MAX_SPEC_LENGTH = 2**20


class Status(enum.IntEnum):
    """Status of an image; the values in `/status`."""

    PENDING = 0
    DONE = 1
    FAILED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Everything in a feature file except the features.

    Args:
        spec: Settings of the features.
        image_ids: Ids of the images, in order.
        status: uint8 `[images]`; values of `Status`.
        image_size: int32 `[images, 2]`, height and width in pixels; zeros if the image failed.
        reasons: Reason for each image that failed; empty for the others.
        shard: Which part of a larger extraction the file holds; `None` for a complete one.
        source: Where the features were downloaded from; `None` if they were not.
    """

    spec: FeatureSpec
    image_ids: Sequence[str]
    status: NDArray[np.uint8]
    image_size: NDArray[np.int32]
    reasons: Sequence[str]
    shard: ShardRecord | None = None
    source: Source | None = None


def write_layout(handle: int, name: Path, metadata: Metadata) -> int:
    """Create a store whose features are allocated but not written.

    The file is sparse: only metadata takes space until the features are written, starting at the
    returned offset, with `tokens * channels * 2` bytes per image.

    Args:
        handle: Descriptor of an empty file in memory, from
            `feature_extraction.store.hdf5_writer.memory_file`. On disk, a full device would crash
            HDF5.
        name: Path that is created and removed immediately.
        metadata: Everything except the features.

    Returns:
        Offset of the features in the file, in bytes.

    Raises:
        OSError: The path cannot be created, or the file is larger than this process may write.
        StoreError: This HDF5 library does not allocate the features as one block.
    """
    spec, images = metadata.spec, len(metadata.image_ids)
    shape = (images, spec.tokens, spec.channels)
    image_bytes = spec.tokens * spec.channels * np.dtype(np.float16).itemsize
    table_bytes = sum(values.nbytes for values in _table(metadata).values())
    check_size_limit(images * image_bytes + table_bytes)
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
                "this HDF5 library does not allocate the features as one block: found "
                f"h5py {h5py.version.version} with HDF5 {h5py.version.hdf5_version}, expected "
                "h5py 3.11 or later. Upgrade h5py."
            )
        write_metadata(file, metadata)
    return offset


def write_metadata(file: h5py.File, metadata: Metadata) -> None:
    """Write everything except the features into a new file."""
    for name, values in _table(metadata).items():
        file.create_dataset(name, data=values, track_times=False)
    write_text_attribute(file, "spec", metadata.spec.to_json())
    if metadata.shard is not None:
        write_text_attribute(file, SHARD_ATTRIBUTE, metadata.shard.model_dump_json())
    if metadata.source is not None:
        write_text_attribute(file, SOURCE_ATTRIBUTE, metadata.source.model_dump_json())


def _table(metadata: Metadata) -> dict[str, NDArray[Any]]:
    return {
        "image_id": fixed_length_text(metadata.image_ids),
        "status": metadata.status.astype("u1"),
        "image_size": metadata.image_size.astype("<i4"),
        "reason": fixed_length_text(metadata.reasons),
    }


def check_layout(file: h5py.File) -> None:
    """Refuse a file that is not a feature store, or that refers to data in other files.

    Only links, types, shapes and storage are examined; no data is read. A file that passes is
    self-contained: it has no soft or external links, no external storage, no virtual datasets, no
    object or reference types, no unknown filters, and it stores all the data that it declares.

    Raises:
        StoreError: The file is refused; the message states what was found and expected.
    """
    check_no_user_block(file)
    if INDEX_ATTRIBUTE in file.attrs:
        raise StoreError(
            "it is an index made by `vl-lst features join`, expected a file with its own features"
        )
    features = local_dataset(file, "features")
    _check_features_shape(features)
    images, tokens, channels = features.shape
    if features.chunks not in (None, (1, tokens, channels)):
        raise StoreError(
            f"/features has chunks of {features.chunks}, "
            f"expected one image per chunk: {(1, tokens, channels)}"
        )
    if not read_filters(features):
        check_stored(features)
    check_table(file, images)


def _check_features_shape(features: h5py.Dataset) -> None:
    if features.ndim != 3 or not features.id.get_type().equal(h5py.h5t.IEEE_F16LE):
        raise StoreError(
            f"/features is {features.dtype} {features.shape}, "
            "expected float16 [images, tokens, channels]"
        )
    images, tokens, channels = features.shape
    if not (1 <= images <= MAX_IMAGES and 1 <= tokens * channels <= MAX_VALUES_PER_IMAGE):
        raise StoreError(f"/features has an impossible shape: {features.shape}")


def check_table(file: h5py.File, images: int) -> None:
    """Refuse a file whose table of images differs from what `write_metadata` writes.

    Raises:
        StoreError: The file is refused; the message states what was found and expected.
    """
    expected = {
        "image_id": ((images,), None),
        "status": ((images,), np.dtype("u1")),
        "image_size": ((images, 2), np.dtype("<i4")),
        "reason": ((images,), None),
    }
    for name, (shape, dtype) in expected.items():
        dataset = local_dataset(file, name)
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
        check_stored(dataset)


def read_spec(file: h5py.File) -> FeatureSpec:
    """Read the attribute `spec`.

    Raises:
        StoreError: It is missing, or not a spec.
    """
    text = read_text_attribute(file, "spec", MAX_SPEC_LENGTH)
    if text is None:
        raise StoreError("the attribute 'spec' with the settings of the features is missing")
    return FeatureSpec.from_json(text)
