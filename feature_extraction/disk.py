"""Writing so that what is on disk is whole: complete writes, synced, renamed into place."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feature_extraction.errors import StoreError

__all__ = [
    "copy_range",
    "hdf5_errors_as_os_errors",
    "is_out_of_space",
    "sync_file",
    "sync_folder",
    "write_all",
    "write_at",
    "write_errors_explained",
    "written_whole",
]

OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
COPY_BYTES = 2**20


def is_out_of_space(error: OSError) -> bool:
    """Whether the disk, or a quota on it, is full; HDF5 says it in its message only."""
    return error.errno in OUT_OF_SPACE or any(
        os.strerror(number) in str(error) for number in OUT_OF_SPACE
    )


@contextmanager
def hdf5_errors_as_os_errors() -> Iterator[None]:
    """Raise what HDF5 raises of another type, such as when closing on a full disk, as `OSError`."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` when the block ends without error.

    Raises:
        StoreError: The disk is full, or the place cannot be written; `path` is as it was.
    """
    with write_errors_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            sync_file(temporary)
            os.replace(temporary, path)
        sync_folder(path.parent)


@contextmanager
def write_errors_explained(path: Path) -> Iterator[None]:
    """Say why `path`, which was to be written whole, cannot be.

    Raises:
        StoreError: In place of any `OSError`.
    """
    try:
        yield
    except OSError as error:
        found = (
            "no space is left on the device: free some and run the same command again"
            if is_out_of_space(error)
            else f"{error.strerror or error}. Choose a place you may write to"
        )
        raise StoreError(f"cannot write {path}: {found}") from error


def write_at(handle: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    while data:
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


def write_all(handle: int, data: bytes) -> None:
    """Write all of `data` where the file stands."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def copy_range(source: int, target: int, start: int, end: int) -> None:
    """Copy the bytes from `start` to `end` to the same place in another file."""
    for offset in range(start, end, COPY_BYTES):
        block = os.pread(source, min(COPY_BYTES, end - offset), offset)
        write_at(target, memoryview(block), offset)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power failure."""
    sync_file(folder)


def sync_file(path: Path) -> None:
    """Make what is in a file survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
