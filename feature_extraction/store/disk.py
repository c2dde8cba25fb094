"""Writing so that what is on disk is whole: complete writes, synced, renamed into place."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feature_extraction.errors import LockError, StoreError

__all__ = [
    "copy_range",
    "file_kind",
    "is_out_of_space",
    "lock_file",
    "read_small_text",
    "require_regular_file",
    "sync_file",
    "sync_folder",
    "write_all",
    "write_at",
    "write_errors_explained",
]

OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Errors of file systems without locks, such as NFS without a lock daemon.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
# Setting this variable to 1 turns locks off.
WITHOUT_LOCKS = "VL_LST_WITHOUT_LOCKS"
COPY_BYTES = 2**20
MAX_TEXT_BYTES = 2**24
FILE_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def is_out_of_space(error: OSError) -> bool:
    """Whether the disk, or a quota on it, is full; Arrow says it in its message only."""
    return error.errno in OUT_OF_SPACE or any(
        os.strerror(number) in str(error) for number in OUT_OF_SPACE
    )


@contextmanager
def write_errors_explained(path: Path) -> Iterator[None]:
    """Explain why `path` cannot be written.

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


def lock_file(handle: int, path: Path, *, wait: bool = False) -> None:
    """Lock an open, writable file for this process until the process closes it or ends.

    The lock is one of POSIX: child processes do not inherit it, so it is free as soon as this
    process is killed. Closing any other handle of the same file in this process releases it too.

    Args:
        handle: Descriptor of the file.
        path: The file, for messages.
        wait: Wait while another process holds the lock.

    Raises:
        BlockingIOError: Another process holds the lock, and `wait` is not set.
        LockError: The file system has no locks, and `VL_LST_WITHOUT_LOCKS` is not 1.
    """
    if os.environ.get(WITHOUT_LOCKS) == "1":
        return
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except PermissionError as error:
        raise BlockingIOError(*error.args) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise LockError(
            f"the file system of {path.parent} does not support locks ({error.strerror}), so two "
            "processes could write there at once. Choose a folder on a local disk; or, if no other "
            f"process writes there, set {WITHOUT_LOCKS}=1 and run the same command again."
        ) from None


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


def file_kind(mode: int) -> str:
    """Return the kind of a file for messages, such as "a named pipe".

    Args:
        mode: `st_mode` of its status.
    """
    return FILE_KINDS.get(stat.S_IFMT(mode), "a file of an unknown kind")


def _special_kind(path: Path) -> str | None:
    """Return the kind of a path, links followed; `None` of a regular or a missing file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    return None if stat.S_ISREG(mode) else file_kind(mode)


def require_regular_file(path: Path) -> None:
    """Refuse what would block its reader or never end: pipes, sockets, devices, links to them.

    Raises:
        StoreError: It is one of these, or a folder. A missing file passes.
    """
    if kind := _special_kind(path):
        raise StoreError(
            f"{path} is {kind}: expected a regular file. Remove it, and run the same command again."
        )


def read_small_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a text file, such as a configuration or a list of names, without a byte-order mark.

    Args:
        path: The file.
        max_bytes: Size limit.

    Raises:
        OSError: It is not a regular file, is too large, or cannot be read.
        UnicodeDecodeError: It is not UTF-8.
    """
    if kind := _special_kind(path):
        raise OSError(f"it is {kind}, expected a regular file")
    if (size := path.stat().st_size) > max_bytes:
        raise OSError(f"it has {size:,} bytes, expected at most {max_bytes:,}")
    return path.read_text(encoding="utf-8-sig")
