"""Read the features of single images without HDF5.

HDF5 is used only once, to find the position of the images in the file. Images are then read
directly, which is faster and leaves no state that forked processes would share. Uncompressed
features are one block; for compressed features there is a table with the position of each image.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError
from feature_extraction.store.filters import decode, read_filters
from feature_extraction.store.layout import PAGE_BYTES
from feature_extraction.store.stamped_file import TRUNCATED, Stamp, StampedFile, stamp_of

# N images, V tokens, C channels

__all__ = ["RowReader", "open_row_reader"]

# Up to this size, an image takes about one disk access, through a memory map or not.
SMALL_BYTES = 2**14
# Linux only; elsewhere each image is read with its own system call.
NO_WAIT: int | None = getattr(os, "RWF_NOWAIT", None)
# Not in memory, or a file system that cannot tell.
NOT_IN_MEMORY = (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
# Compression can enlarge a chunk, but not to twice its size.
MAX_EXPANSION = 2


class RowReader(Protocol):
    """Reader of the rows of one file; safe in forked and spawned workers."""

    def read(self, row: int) -> NDArray[np.float16]:
        """Return the features of one image, float16 `[tokens, channels]`."""

    def read_into(self, rows: Sequence[int], features_NVC: NDArray[np.float16]) -> None:
        """Fill a contiguous array with the features of the images in `rows`."""

    def close(self) -> None:
        """Close this process's handle; the next read opens it again."""


def open_row_reader(path: Path, features: h5py.Dataset) -> RowReader:
    """Return a reader for the images of a checked file.

    Args:
        path: The file.
        features: The open dataset `/features` of this file.

    Raises:
        StoreError: Features are missing, or extend beyond the end of the file.
    """
    # Taken from the path, not from the open file, to notice a file that was replaced in between.
    stamp = stamp_of(path)
    offset = _block_offset(features)
    if offset is None:
        filters = read_filters(features)
        return _ChunkRows(
            path, stamp, filters, features.shape[1:], _chunk_positions(features, stamp[0])
        )
    if offset + _image_bytes(features) * features.shape[0] > stamp[0]:
        raise StoreError("/features extends beyond the end of the file; the file was truncated")
    return _BlockRows(path, stamp, offset, features.shape)


def _block_offset(features: h5py.Dataset) -> int | None:
    """Return the offset of features stored as one block; `None` if they are not one block."""
    if features.chunks is None:
        offset = features.id.get_offset()
        if offset is None:
            raise StoreError("/features was never written")
        return int(offset)
    properties = features.id.get_create_plist()
    if properties.get_nfilters() or properties.get_alloc_time() != h5py.h5d.ALLOC_TIME_EARLY:
        return None
    # HDF5 allocates such chunks in order, so checking the first and the last is enough.
    images = features.shape[0]
    first, last = (features.id.get_chunk_info(row).byte_offset for row in (0, images - 1))
    return int(first) if last == first + (images - 1) * _image_bytes(features) else None


def _chunk_positions(features: h5py.Dataset, file_bytes: int) -> NDArray[np.uint64]:
    """Return offset, size and skipped filters of each image, uint64 `[images, 3]`."""
    positions_N3 = np.zeros((features.shape[0], 3), np.uint64)

    def note(chunk: Any) -> None:
        positions_N3[chunk.chunk_offset[0]] = chunk.byte_offset, chunk.size, chunk.filter_mask

    features.id.chunk_iter(note)
    offset_N, size_N, _ = positions_N3.T
    if not size_N.all():
        raise StoreError(
            f"the features of {int((size_N == 0).sum()):,} images are missing; the file is "
            "incomplete"
        )
    if size_N.max() > MAX_EXPANSION * _image_bytes(features) + PAGE_BYTES:
        raise StoreError(
            f"an image of {_image_bytes(features):,} bytes takes {int(size_N.max()):,} bytes in "
            "the file; refused"
        )
    if offset_N.max() > file_bytes or (offset_N + size_N).max() > file_bytes:
        raise StoreError("images extend beyond the end of the file; the file was truncated")
    return positions_N3


def _image_bytes(features: h5py.Dataset) -> int:
    return int(np.prod(features.shape[1:])) * int(features.dtype.itemsize)


class _BlockRows:
    """Reader of features stored as one block.

    Images in the page cache are copied from a memory map, which costs no more than the copy. Other
    images are read with one system call each, because a map would wait for the disk page by page.
    """

    def __init__(self, path: Path, stamp: Stamp, offset: int, shape: tuple[int, int, int]) -> None:
        self._path = path
        self._stamp = stamp
        self._offset = offset
        self._shape_NVC = shape
        self._image_bytes = int(np.prod(shape[1:])) * np.dtype("<f2").itemsize
        self._file: _OpenBlock | None = None

    def read(self, row: int) -> NDArray[np.float16]:
        file = self._file or self._open()
        features_VC = np.empty(self._shape_NVC[1:], np.float16)
        if self._image_bytes > SMALL_BYTES and self._is_in_memory(file, (row,)):
            features_VC[:] = file.mapped_NVC[row]
        else:
            file.fetch(self._offset + row * self._image_bytes, features_VC)
        return features_VC

    def read_into(self, rows: Sequence[int], features_NVC: NDArray[np.float16]) -> None:
        file = self._file or self._open()
        if self._is_in_memory(file, rows):
            file.mapped_NVC.take(rows, axis=0, out=features_NVC, mode="clip")
            return
        for position, row in enumerate(rows):
            file.fetch(self._offset + row * self._image_bytes, features_NVC[position])

    def _open(self) -> "_OpenBlock":
        # Memory maps and positioned reads have no state: a forked child can keep using them.
        self._file = _OpenBlock(self._path, self._stamp, self._offset, self._shape_NVC)
        return self._file

    def _is_in_memory(self, file: "_OpenBlock", rows: Sequence[int]) -> bool:
        """Whether copying from the map is fast and safe; a map of a truncated file crashes."""
        if self._image_bytes <= SMALL_BYTES:
            return file.size() >= self._stamp[0]
        last = self._offset + self._image_bytes - 1
        return all(file.is_in_memory(last + row * self._image_bytes) for row in rows)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


class _OpenBlock(StampedFile):
    """An open file whose features are one block."""

    def __init__(self, path: Path, stamp: Stamp, offset: int, shape: tuple[int, int, int]) -> None:
        super().__init__(path, stamp)
        self._last_byte = [bytearray(1)]
        # Map the handle, which was checked, not the path. View it as a plain array: each access to
        # a `numpy.memmap` creates an object, which takes longer than copying a small image.
        with os.fdopen(self.handle, "rb", closefd=False) as file:
            mapped_NVC = np.memmap(file, "<f2", "r", offset, shape)
        self.mapped_NVC: NDArray[np.float16] = mapped_NVC.view(np.ndarray)

    def size(self) -> int:
        return os.fstat(self.handle).st_size

    def is_in_memory(self, offset: int) -> bool:
        """Whether the byte at `offset` can be read without waiting for the disk.

        Raises:
            StoreError: The file ends before it.
        """
        if NO_WAIT is None:
            return False
        try:
            if os.preadv(self.handle, self._last_byte, offset, NO_WAIT) == 0:
                raise StoreError(TRUNCATED)
        except OSError as error:
            if error.errno in NOT_IN_MEMORY:
                return False
            raise
        return True


class _ChunkRows:
    """Reader of features in chunks, one image each, which may be compressed."""

    def __init__(
        self,
        path: Path,
        stamp: Stamp,
        filters: tuple[int, ...],
        shape_VC: tuple[int, int],
        positions_N3: NDArray[np.uint64],
    ) -> None:
        self._path = path
        self._stamp = stamp
        self._filters = filters
        self._shape_VC = shape_VC
        self._positions_N3 = positions_N3
        self._file: StampedFile | None = None

    def read(self, row: int) -> NDArray[np.float16]:
        features_VC = np.empty(self._shape_VC, np.float16)
        self.read_into((row,), features_VC[None])
        return features_VC

    def read_into(self, rows: Sequence[int], features_NVC: NDArray[np.float16]) -> None:
        if self._file is None:
            self._file = StampedFile(self._path, self._stamp)
        for position, row in enumerate(rows):
            offset, size, skipped = self._positions_N3[row].tolist()
            stored = np.empty(size, np.uint8)
            self._file.fetch(offset, stored)
            decode(stored.data, self._filters, skipped, features_NVC[position])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}
