"""How a compressed image becomes numbers again: HDF5's filters, undone without HDF5.

A filter of HDF5 is code that a file can ask for, that allocates what the file tells it to, and that
is looked for in folders which the environment names. None is loaded here. An image is decoded into
as many bytes as it has, whatever the file says, and by the same code in every process.
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

# Of `registered filters`: https://github.com/HDFGroup/hdf5_plugins/blob/master/docs
ZSTD = 32015
NAMES = {h5py.h5z.FILTER_DEFLATE: "gzip", ZSTD: "zstd"}
KNOWN_ELSEWHERE = {
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
    """Return the filters that features went through when they were stored, in their order.

    Raises:
        StoreError: They are others than byte shuffling and one compression known here.
    """
    properties = dataset.id.get_create_plist()
    filters = tuple(properties.get_filter(i)[0] for i in range(properties.get_nfilters()))
    rest = filters[1:] if filters[:1] == (h5py.h5z.FILTER_SHUFFLE,) else filters
    if len(rest) > 1 or any(number not in NAMES for number in rest):
        found = ", ".join(_name(number) for number in filters)
        raise StoreError(
            f"{dataset.name} is stored with the HDF5 filters {found}; expected none, zstd or gzip "
            "(after byte shuffling or not). Store it anew with h5repack, which knows its filters"
        )
    return filters


def _name(number: int) -> str:
    return NAMES.get(number) or KNOWN_ELSEWHERE.get(number) or f"number {number}"


def compression_name(filters: tuple[int, ...]) -> str:
    """Name the compression among filters: `zstd`, `gzip` or `none`."""
    return next((NAMES[number] for number in filters if number in NAMES), "none")


def decode(
    stored: memoryview,
    filters: tuple[int, ...],
    skipped: int,
    features_VC: NDArray[np.float16],
) -> None:
    """Fill a contiguous array with what was stored of an image.

    Args:
        stored: The bytes in the file.
        filters: What they went through, by `read_filters`.
        skipped: A bit for each filter that was left out for this image.
        features_VC: What to fill.

    Raises:
        StoreError: They are not what is left of exactly as many bytes.
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
    # The decoder takes the size of the buffer, and does not say how much of it was filled.
    if _zstd_content_size(stored) != size:
        raise StoreError("an image is not compressed as a whole by zstd; it is damaged")
    try:
        decoded: bytes = _zstd().decompress(stored, size, asbytes=True)
    except (OSError, ValueError) as error:
        raise StoreError(f"an image cannot be decompressed ({error}); it is damaged") from None
    return decoded


def _zstd_content_size(frame: memoryview) -> int | None:
    """Read how much a frame holds, as RFC 8878 (section 3.1.1.1) lays it out."""
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
        raise StoreError("an image is compressed from more than it is, or cut short; refused")
    return decoded


@cache
def _zstd() -> Any:
    # Only here: most stores are not compressed.
    from pyarrow import Codec

    return Codec("zstd")
