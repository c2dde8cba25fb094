"""Locks on a run's folder: one process trains in it, and one at a time updates its record."""

import errno
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from feature_extraction.store.disk import lock_file
from vl_lst.errors import CheckpointError

__all__ = ["exclusive_folder", "record_lock"]

FOLDER_LOCK = ".lock"
RECORD_LOCK = ".record.lock"
MAX_HOLDER_BYTES = 4096

# Folders that this process has locked, and the thread that did. Opening and closing the file of a
# POSIX lock again would release the lock.
_held: dict[str, int] = {}
_record_threads = threading.RLock()


@contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes during the block.

    Blocks of the same thread may nest. A process that is killed releases the lock and leaves only
    its file, a hidden one.

    Args:
        folder: An existing folder.

    Raises:
        CheckpointError: Another process or thread uses the folder, or the path of the lock file is
            a folder or a link.
        LockError: The file system does not support locks.
    """
    place = os.path.realpath(folder)
    if place in _held:
        if _held[place] != threading.get_ident():
            raise CheckpointError(
                f"{folder} is in use by another thread of this process: wait for it, or choose "
                "another folder"
            )
        yield
        return
    path = folder / FOLDER_LOCK
    with ExitStack() as stack:
        try:
            handle = stack.enter_context(_locked(path, wait=False))
        except BlockingIOError:
            raise CheckpointError(
                f"{folder} is in use: {_read_holder(path)}. Wait until that process "
                "ends, or choose another folder."
            ) from None
        _write_holder(handle)
        _held[place] = threading.get_ident()
        stack.callback(_held.pop, place)
        yield


@contextmanager
def record_lock(folder: Path) -> Iterator[None]:
    """Lock the record of a run during the block, waiting for other processes.

    Raises:
        CheckpointError: The path of the lock file is a folder or a link.
        LockError: The file system does not support locks.
    """
    with _record_threads, _locked(folder / RECORD_LOCK, wait=True):
        yield


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[int]:
    """Lock a file that exists only while a process holds the lock or waits for it."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.ELOOP):
                raise
            found = "a folder" if error.errno == errno.EISDIR else "a link"
            raise CheckpointError(
                f"{path} is {found}: expected a regular file or none. Remove it."
            ) from None
        try:
            lock_file(handle, path, wait=wait)
        except BaseException:
            os.close(handle)
            raise
        # The previous holder removes the file, and then nobody else finds the one locked here.
        if _is_same_file(handle, path):
            break
        os.close(handle)
    try:
        yield handle
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), found)


def _write_holder(handle: int) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    # Only messages of other processes need this, so a full disk is no reason to fail.
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode(), 0)


def _read_holder(path: Path) -> str:
    """Return a description of the process that holds the lock, from its file."""
    unknown = "another process uses it"
    try:
        # A named pipe must not block.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            holder = json.loads(os.read(handle, MAX_HOLDER_BYTES))
        finally:
            os.close(handle)
        shown = f"process {holder['pid']} on {holder['host']} has used it since {holder['since']}"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return unknown
    return shown if shown.isprintable() else unknown
