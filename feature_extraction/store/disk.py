"""File operations that survive failures: complete writes, syncs, locks, and explained errors.

This module does not import h5py, so that the command line can use it without loading HDF5.
"""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eval.outputs import OUT_OF_SPACE
from eval.regular_files import file_kind
from feature_extraction.errors import FeatureError, LockError, StoreError
from feature_extraction.sizes import format_bytes

__all__ = [
    "copy_range",
    "create_memory_file",
    "explain_write_errors",
    "is_out_of_space",
    "lock_file",
    "read_small_text",
    "require_regular_file",
    "sync_path",
    "write_all",
    "write_at",
    "write_error",
]

# Errors of file systems without locks, such as NFS without a lock daemon.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
# Setting this variable to 1 turns locks off.
WITHOUT_LOCKS = "VL_LST_WITHOUT_LOCKS"
COPY_BYTES = 2**20
MAX_TEXT_BYTES = 2**24


def is_out_of_space(error: OSError) -> bool:
    """Whether the disk or a quota is full; Arrow reports this only in the message."""
    return error.errno in OUT_OF_SPACE or any(
        os.strerror(number) in str(error) for number in OUT_OF_SPACE
    )


def write_error(path: Path, error: OSError, kept: str = "") -> StoreError:
    """Return the error to raise when `path` cannot be written.

    Args:
        path: The file or folder, as the user named it.
        error: Error of the operating system.
        kept: Sentence about the unfinished work that was kept; empty if there is none.
    """
    reason = error.strerror or str(error)
    advice = "Choose a place you can write to, or another name."
    if is_out_of_space(error):
        reason = "no space left on the device"
        advice = "Free some space and run the same command again."
    elif kept:
        advice = "Run the same command again to resume."
    return StoreError(" ".join(filter(None, (f"cannot write {path}: {reason}.", kept, advice))))


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Raise any `OSError` in the block as a `StoreError` about `path`.

    Raises:
        StoreError: See `write_error`.
    """
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


def lock_file(handle: int, path: Path, *, wait: bool = False) -> None:
    """Lock an open, writable file for this process until the process closes it or ends.

    This is a POSIX lock: child processes do not inherit it, so it is released as soon as this
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


def create_memory_file(name: str) -> int:
    """Create an empty file in memory, and return its descriptor.

    The file can be shared with other processes, and is freed when the last one closes it. On
    systems without such files (macOS) it is an unlinked temporary file.

    Args:
        name: Name of the file, shown only by debugging tools.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write_at(handle: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    while data:
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


def write_all(handle: int, data: bytes) -> None:
    """Write all of `data` at the current position."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def copy_range(source: int, target: int, start: int, end: int) -> None:
    """Copy bytes `start` to `end` of one open file to the same position in another."""
    for offset in range(start, end, COPY_BYTES):
        block = os.pread(source, min(COPY_BYTES, end - offset), offset)
        write_at(target, memoryview(block), offset)


def sync_path(path: Path) -> None:
    """Make the content of a file, or the entries of a folder, survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def require_regular_file(
    path: Path,
    *,
    max_bytes: int | None = None,
    must_exist: bool = False,
    error: type[FeatureError] = StoreError,
) -> None:
    """Refuse pipes, sockets, devices and folders: reading them could block or never end.

    Args:
        path: The path; links are followed.
        max_bytes: Size limit.
        must_exist: Whether to refuse a missing file as well.
        error: Class of the error to raise.

    Raises:
        FeatureError: The path is refused; an error of the class `error`.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as failure:
        if not must_exist:
            return
        if path.is_symlink():
            raise error(
                f"{path} is a broken link: expected a regular file. Copy the file it points to."
            ) from None
        reason = getattr(failure, "strerror", None) or failure
        raise error(f"{path} cannot be read: {reason}") from None
    if not stat.S_ISREG(found.st_mode):
        raise error(
            f"{path} is {file_kind(found.st_mode)}: expected a regular file. Remove or replace it."
        )
    if max_bytes is not None and found.st_size > max_bytes:
        raise error(
            f"{path} has {format_bytes(found.st_size)}: expected at most {format_bytes(max_bytes)}"
        )


def read_small_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a text file, such as a list of names, without a byte-order mark.

    Args:
        path: The file.
        max_bytes: Size limit.

    Raises:
        StoreError: It is not a regular file, or is too large.
        OSError: It cannot be read.
        UnicodeDecodeError: It is not UTF-8.
    """
    require_regular_file(path, max_bytes=max_bytes)
    return path.read_text(encoding="utf-8-sig")
