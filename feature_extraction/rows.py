"""The features of single images, fetched from the file that holds them.

Uncompressed features lie in one block of the file, so an image is known by its place: reading it
takes no HDF5, which is several times slower, and nothing that forked processes would share.
Whatever else a valid file may hold goes through HDF5.
"""

import errno
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError

# N images, V tokens, C channels

__all__ = ["RowReader", "row_reader"]

# Up to this size an image is about one access to the disk whichever way it is read.
SMALL_BYTES = 2**14
# On Linux; elsewhere every image is fetched by a read of its own.
NO_WAIT: int | None = getattr(os, "RWF_NOWAIT", None)
# Not in memory, or a file system that does not say.
CANNOT_TELL = (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
CUT_SHORT = "it was cut short while in use"


class RowReader(Protocol):
    """Reads rows of one file; safe in forked and spawned workers."""

    def read_into(self, rows: Sequence[int], features_NVC: NDArray[np.float16]) -> None:
        """Fill a contiguous array with the features of the images in `rows`."""

    def close(self) -> None:
        """Close this process's handle; the next read opens it again."""


def row_reader(path: Path, features: h5py.Dataset) -> RowReader:
    """Choose how the images of a checked file are read.

    Args:
        path: The file.
        features: Its `/features`, open.
    """
    # Of the path, not of the open file: replaced in between, it counts as changed below.
    stamp = _stamp(path)
    offset = _block_offset(features)
    if offset is None:
        return _HdfRows(path, stamp)
    return _BlockRows(path, stamp, offset, features.shape)


def _block_offset(features: h5py.Dataset) -> int | None:
    """Find the first byte of features stored as one block; `None` where they are not."""
    if features.file.userblock_size:
        return None
    if features.chunks is None:
        offset = features.id.get_offset()
        return None if offset is None else int(offset)
    properties = features.id.get_create_plist()
    if properties.get_nfilters() or properties.get_alloc_time() != h5py.h5d.ALLOC_TIME_EARLY:
        return None
    # HDF5 allocates such chunks in order as the file is made, so the last tells of all between.
    images = features.shape[0]
    first, last = (features.id.get_chunk_info(row).byte_offset for row in (0, images - 1))
    image_bytes = int(np.prod(features.shape[1:])) * features.dtype.itemsize
    return int(first) if last == first + (images - 1) * image_bytes else None


class _BlockRows:
    """Images one after the other in a block of a file.

    What is in memory already is copied from a memory map, which costs no more than the copy; what
    is not is fetched by one read each, where a memory map would wait for the disk page by page.
    """

    def __init__(
        self, path: Path, stamp: tuple[int, int], offset: int, shape: tuple[int, int, int]
    ) -> None:
        self._path = path
        self._stamp = stamp
        self._offset = offset
        self._shape_NVC = shape
        self._image_bytes = int(np.prod(shape[1:])) * np.dtype("<f2").itemsize
        self._file: _OpenBlock | None = None

    def read_into(self, rows: Sequence[int], features_NVC: NDArray[np.float16]) -> None:
        # Neither a map nor positioned reads have a state: a forked child may go on using them.
        if self._file is None:
            self._file = _OpenBlock(self._path, self._stamp, self._offset, self._shape_NVC)
        file = self._file
        if self._image_bytes <= SMALL_BYTES:
            # A map of a file that was cut short would end the process.
            if file.size() < self._stamp[0]:
                raise StoreError(CUT_SHORT)
            file.mapped_NVC.take(rows, axis=0, out=features_NVC, mode="clip")
            return
        for position, row in enumerate(rows):
            start = self._offset + row * self._image_bytes
            if file.is_in_memory(start + self._image_bytes - 1):
                features_NVC[position] = file.mapped_NVC[row]
            else:
                file.fetch(start, features_NVC[position])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


class _OpenBlock:
    """The file while it is open in this process."""

    def __init__(
        self, path: Path, stamp: tuple[int, int], offset: int, shape: tuple[int, int, int]
    ) -> None:
        self._handle = os.open(path, os.O_RDONLY)
        self.close = weakref.finalize(self, os.close, self._handle)
        self._last_byte = [bytearray(1)]
        _check_unchanged(stamp, _stamp(self._handle))
        # The handle, not the path: it is the file that was checked. Through a plain array, as
        # each access of a `numpy.memmap` makes an object that takes longer than a small image.
        with os.fdopen(self._handle, "rb", closefd=False) as file:
            mapped_NVC = np.memmap(file, "<f2", "r", offset, shape)
        self.mapped_NVC: NDArray[np.float16] = mapped_NVC.view(np.ndarray)

    def size(self) -> int:
        return os.fstat(self._handle).st_size

    def is_in_memory(self, place: int) -> bool:
        """Ask for one byte without waiting; it tells as well whether the file has it."""
        if NO_WAIT is None:
            return False
        try:
            if os.preadv(self._handle, self._last_byte, place, NO_WAIT) == 0:
                raise StoreError(CUT_SHORT)
        except OSError as error:
            if error.errno in CANNOT_TELL:
                return False
            raise
        return True

    def fetch(self, offset: int, features_VC: NDArray[np.float16]) -> None:
        """Read until the array is full."""
        rest = features_VC.data.cast("B")
        while rest:
            count = os.preadv(self._handle, [rest], offset)
            if count == 0:
                raise StoreError(CUT_SHORT)
            rest, offset = rest[count:], offset + count


class _HdfRows:
    """Images in an HDF5 dataset that is compressed, or allocated piece by piece."""

    def __init__(self, path: Path, stamp: tuple[int, int]) -> None:
        self._path = path
        self._stamp = stamp
        self._file: h5py.File | None = None
        self._pid = -1

    def read_into(self, rows: Sequence[int], features_NVC: NDArray[np.float16]) -> None:
        dataset = self._opened()["features"]
        for position, row in enumerate(rows):
            dataset.read_direct(features_NVC, np.s_[row], np.s_[position])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": -1}

    def _opened(self) -> h5py.File:
        if self._pid != os.getpid():
            # A forked child closes the handle it inherited before opening its own: HDF5 would
            # otherwise take the same file descriptor, and its offset, for both processes.
            self.close()
            self._pid = os.getpid()
        if self._file is None:
            _check_unchanged(self._stamp, _stamp(self._path))
            # A chunk is one image and is read once: caching chunks would only copy them.
            self._file = h5py.File(self._path, "r", rdcc_nbytes=0, locking="best-effort")
        return self._file


def _stamp(file: Path | int) -> tuple[int, int]:
    found = os.stat(file)
    return found.st_size, found.st_mtime_ns


def _check_unchanged(before: tuple[int, int], now: tuple[int, int]) -> None:
    if now != before:
        raise StoreError("it was replaced or changed after it was opened here; open it again")
