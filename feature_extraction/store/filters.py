"""Decoding of compressed images without HDF5's filters.

An HDF5 filter is code that a file requests, that allocates as much memory as the file declares, and
that HDF5 loads from folders named by the environment. This module loads no filters. It decodes each
image into a buffer of the image's size, regardless of what the file declares.
"""

import zlib
from functools import cache
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError

# V tokens, C channels

__all__ = ["ZSTD", "compression_name", "decode", "read_filters"]

# Registered filters: https://github.com/HDFGroup/hdf5_plugins/blob/master/docs
ZSTD = 32015
NAMES = {h5py.h5z.FILTER_DEFLATE: "gzip", ZSTD: "zstd"}
OTHER_NAMES = {
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
    h5py.h5z.FILTER_SZIP: "szip",
    h5py.h5z.FILTER_LZF: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32026: "blosc2",
}
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def read_filters(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return the ids of a dataset's HDF5 filters, in the order in which they were applied.

    Raises:
        StoreError: There is a filter other than byte shuffling, zstd and gzip.
    """
    properties = dataset.id.get_create_plist()
    filters = tuple(properties.get_filter(i)[0] for i in range(properties.get_nfilters()))
    rest = filters[1:] if filters[:1] == (h5py.h5z.FILTER_SHUFFLE,) else filters
    if len(rest) > 1 or any(number not in NAMES for number in rest):
        found = ", ".join(_name(number) for number in filters)
        raise StoreError(
            f"{dataset.name} is stored with the HDF5 filters {found}; expected none, zstd or gzip, "
            "each with or without byte shuffling. Rewrite the file with h5repack"
        )
    return filters


def _name(number: int) -> str:
    return NAMES.get(number) or OTHER_NAMES.get(number) or f"number {number}"


def compression_name(filters: tuple[int, ...]) -> str:
    """Return the name of the compression among filters: `zstd`, `gzip` or `none`."""
    return next((NAMES[number] for number in filters if number in NAMES), "none")


def decode(
    stored: memoryview,
    filters: tuple[int, ...],
    skipped: int,
    features_VC: NDArray[np.float16],
) -> None:
    """Decode the stored bytes of one image into an array.

    Args:
        stored: Bytes in the file.
        filters: Filters of the dataset, from `read_filters`.
        skipped: Bit mask of the filters that were not applied to this image.
        features_VC: Contiguous array to fill, float16 `[tokens, channels]`.

    Raises:
        StoreError: The bytes do not decode to exactly the size of the array.
    """
    size = features_VC.nbytes
    applied = [number for bit, number in enumerate(filters) if not skipped >> bit & 1]
    content: bytes | memoryview = stored
    if ZSTD in applied:
        content = _decode_zstd(stored, size)
    elif h5py.h5z.FILTER_DEFLATE in applied:
        content = _decode_gzip(stored, size)
    if len(content) != size:
        raise StoreError(f"an image has {len(content):,} bytes, expected {size:,}; it is damaged")
    bytes_ = np.frombuffer(content, np.uint8)
    if h5py.h5z.FILTER_SHUFFLE in applied:
        bytes_ = bytes_.reshape(features_VC.itemsize, -1).T
    features_VC.view(np.uint8).reshape(bytes_.shape)[:] = bytes_


def _decode_zstd(stored: memoryview, size: int) -> bytes:
    # The decoder takes the size of the buffer and does not report how much of it was filled.
    if _zstd_content_size(stored) != size:
        raise StoreError("an image is not a single zstd frame of the expected size; it is damaged")
    try:
        decoded: bytes = _zstd().decompress(stored, size, asbytes=True)
    except (OSError, ValueError) as error:
        raise StoreError(f"an image cannot be decompressed ({error}); it is damaged") from None
    return decoded


def _zstd_content_size(frame: memoryview) -> int | None:
    """Return the decoded size that a frame declares (RFC 8878, section 3.1.1.1), if any."""
    if frame[:4] != ZSTD_MAGIC or len(frame) < 5:
        return None
    descriptor = frame[4]
    flag, is_single_segment = descriptor >> 6, bool(descriptor & 0x20)
    if flag == 0 and not is_single_segment:
        return None
    start = 5 + (not is_single_segment) + (0, 1, 2, 4)[descriptor & 3]
    size = int.from_bytes(frame[start : start + (1 << flag)], "little")
    return size + 256 if flag == 1 else size


def _decode_gzip(stored: memoryview, size: int) -> bytes:
    decoder = zlib.decompressobj()
    try:
        decoded = decoder.decompress(stored, size + 1)
    except zlib.error as error:
        raise StoreError(f"an image cannot be decompressed ({error}); it is damaged") from None
    if not decoder.eof:
        raise StoreError("an image decompresses to more than its size, or is truncated; refused")
    return decoded


@cache
def _zstd() -> Any:
    # Imported here because most stores are not compressed.
    from pyarrow import Codec

    return Codec("zstd")
