"""The features of single images, fetched from the file that holds them.

Uncompressed features lie in one block of the file, so an image is a positioned read of its bytes:
about four times faster than through HDF5, no offset for forked processes to share, and a file that
was cut short while in use gives an error where a memory map would end the process. Whatever else
a valid file may hold goes through HDF5.
"""

import os
import weakref
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError

# V tokens, C channels

__all__ = ["RowReader", "row_reader"]


class RowReader(Protocol):
    """Reads one row at a time; safe in forked and spawned workers."""

    def read_into(self, row: int, features_VC: NDArray[np.float16]) -> None:
        """Fill a contiguous array with the features of the image in `row`."""

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
    return _BlockRows(path, stamp, offset, int(np.prod(features.shape[1:])) * 2)


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
    """Images one after the other in a block of a file."""

    def __init__(self, path: Path, stamp: tuple[int, int], offset: int, image_bytes: int) -> None:
        self._path = path
        self._stamp = stamp
        self._offset = offset
        self._image_bytes = image_bytes
        self._handle: int | None = None

    def read_into(self, row: int, features_VC: NDArray[np.float16]) -> None:
        # Positioned reads leave no state in the handle: a forked child may go on using it.
        if self._handle is None:
            self._handle = self._open()
        rest = features_VC.data.cast("B")
        offset = self._offset + row * self._image_bytes
        while rest:
            count = os.preadv(self._handle, [rest], offset)
            if count == 0:
                raise StoreError("it was cut short while in use")
            rest, offset = rest[count:], offset + count

    def close(self) -> None:
        if self._handle is not None:
            self._closer()
            self._handle = None

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key != "_closer"}
        return {**state, "_handle": None}

    def _open(self) -> int:
        handle = os.open(self._path, os.O_RDONLY)
        self._closer = weakref.finalize(self, os.close, handle)
        _check_unchanged(self._stamp, _stamp(handle))
        return handle


class _HdfRows:
    """Images in an HDF5 dataset that is compressed, or allocated piece by piece."""

    def __init__(self, path: Path, stamp: tuple[int, int]) -> None:
        self._path = path
        self._stamp = stamp
        self._file: h5py.File | None = None
        self._pid = -1

    def read_into(self, row: int, features_VC: NDArray[np.float16]) -> None:
        self._opened()["features"].read_direct(features_VC, np.s_[row])

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
