"""Output paths: checks before the work starts, folders for unfinished work, atomic writes.

Unfinished work on `NAME` is written to the folder `NAME.partial`, which one process locks, and is
renamed to `NAME` when it is complete. If `NAME` is a symbolic link to a file, that file is
replaced, the folder is created next to it, and the link stays.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eval.regular_files import file_kind
from feature_extraction.errors import LockError, StoreError
from feature_extraction.store.disk import explain_write_errors, lock_file, sync_path

__all__ = [
    "LOCK",
    "atomic_output",
    "check_output_file",
    "check_output_folder",
    "claimed_folder",
    "locked_folder",
    "move_into_place",
    "partial_folder",
    "remove_leftovers",
    "remove_locked_folder",
    "resolve_link",
]

LOCK = ".lock"
MAX_ATTEMPTS = 10

FOLDER, FILE = file_kind(stat.S_IFDIR), file_kind(stat.S_IFREG)


def resolve_link(path: Path) -> Path:
    """Return the path that a symbolic link leads to; other paths are returned unchanged."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def partial_folder(out: Path) -> Path:
    """Return the folder for unfinished work on `out`."""
    target = resolve_link(out)
    return target.with_name(target.name + ".partial")


def check_output_file(out: Path) -> None:
    """Check that a feature file can be written at `out`, and create its folder if needed.

    Raises:
        StoreError: It cannot be written; the message states what was found and what to do.
    """
    with explain_write_errors(out):
        found = _kind_at(out)
        if found == FOLDER:
            raise StoreError(
                f"{out} is a folder, expected a file to write. Give the name of a file, such as "
                f"{out / 'x.h5'}."
            )
        _check_output(out, found, FILE)


def check_output_folder(out: Path) -> None:
    """Check that a folder can be created at `out`, and create its parent folder if needed.

    Raises:
        StoreError: It cannot be created; the message states what was found and what to do.
    """
    with explain_write_errors(out):
        _check_output(out, _kind_at(out), FOLDER)


def _check_output(out: Path, found: str | None, expected: str) -> None:
    if found not in (None, expected):
        raise StoreError(
            f"cannot write {out}: it is {found}, expected {expected} or nothing. Choose another "
            "--out."
        )
    for parent in reversed(out.absolute().parents):
        kind = _kind_at(parent)
        if kind not in (None, FOLDER):
            raise StoreError(
                f"cannot write {out}: {parent} is {kind}, expected a folder. Choose another --out."
            )
    folder = partial_folder(out)
    kind = _own_kind(folder)
    if kind not in (None, FOLDER):
        raise StoreError(
            f"cannot write {out}: {folder} is {kind}, expected a folder for unfinished work or "
            "nothing. Remove it, or choose another --out."
        )
    # Other processes that check the same path create and remove this folder as well.
    with suppress(FileExistsError):
        folder.mkdir(parents=True)
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        # It holds unfinished work.
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreError(
                f"cannot write {out}: no permission to write into {folder}. Choose a place you can "
                "write to."
            ) from None


def _kind_at(path: Path) -> str | None:
    """Return the kind of file that a path leads to; `None` if nothing is there.

    Raises:
        OSError: It cannot be determined, for example without permission to search a folder.
    """
    try:
        return file_kind(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            return f"a symbolic link to {os.readlink(path)}, which does not exist"
        return None
    except OSError as error:
        if path.is_symlink():
            return f"a symbolic link that cannot be followed ({error.strerror})"
        raise


def _own_kind(path: Path) -> str | None:
    """Return the kind of a path itself, for paths that must not be links; see `_kind_at`."""
    return "a symbolic link" if path.is_symlink() else _kind_at(path)


@contextmanager
def locked_folder(folder: Path, busy: str) -> Iterator[None]:
    """Create a folder if needed, and lock it against other processes during the block.

    Args:
        folder: The folder. The lock is the file `LOCK` in it, which stays there.
        busy: Error message if another process holds the lock.

    Raises:
        StoreError: Another process holds the lock.
        LockError: The file system has no locks.
        OSError: The folder cannot be written.
    """
    path = folder / LOCK
    handle = _open_lock(path)
    try:
        try:
            lock_file(handle, folder)
        except BlockingIOError:
            raise StoreError(busy) from None
        except LockError:
            # An empty folder would look like unfinished work.
            with suppress(OSError):
                path.unlink()
                folder.rmdir()
            raise
        # A process that finishes removes the file it has locked.
        if not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
            raise StoreError(busy)
        yield
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    for _ in range(MAX_ATTEMPTS):
        with suppress(FileExistsError):
            path.parent.mkdir(parents=True)
        # Another process that checks the same path may remove the empty folder in between.
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


@contextmanager
def claimed_folder(out: Path, name: str) -> Iterator[Path]:
    """Yield the partial folder of an output, locked, in which only one kind of work may be.

    Args:
        out: File or folder to write.
        name: Name of the unfinished work in the folder.

    Raises:
        StoreError: Another process writes to `out`, other work for `out` is unfinished, the disk is
            full, or the folder cannot be written.
    """
    folder = partial_folder(out)
    busy = f"another process is writing {out}; wait for it to end, or choose another --out"
    with explain_write_errors(out), locked_folder(folder, busy):
        if others := {entry.name for entry in folder.iterdir()} - {LOCK, name}:
            raise StoreError(
                f"{folder} holds other unfinished work ({min(others)}), such as an unfinished "
                "extraction or import. Finish it, or remove the folder."
            )
        yield folder


@contextmanager
def atomic_output(out: Path, name: str = "whole", *, is_resumable: bool = False) -> Iterator[Path]:
    """Yield a temporary path whose content becomes `out` if the block raises nothing.

    The block creates a file or a folder there. It is removed if the block raises an error. If the
    process is killed, the next call for the same `out` removes it.

    Args:
        out: File or folder to write. A file is replaced; a folder must not exist.
        name: Name of the temporary path.
        is_resumable: Whether to keep the temporary path after an error, and to yield it again with
            its content.

    Raises:
        StoreError: Another process writes to `out`, an extraction into `out` is unfinished, the
            disk is full, or `out` cannot be written; `out` is unchanged.
    """
    with claimed_folder(out, name) as folder:
        temporary = folder / name
        kind = _own_kind(temporary)
        if kind not in (None, FILE, FOLDER):
            raise StoreError(
                f"cannot write {out}: {temporary} is {kind}, expected nothing, or the "
                "file or folder of an interrupted run. Remove it."
            )
        if kind == FOLDER and not is_resumable:
            shutil.rmtree(temporary)
        is_finished = False
        try:
            yield temporary
            move_into_place(temporary, resolve_link(out))
            is_finished = True
        finally:
            if is_finished or not is_resumable:
                remove_locked_folder(folder)


def move_into_place(temporary: Path, target: Path) -> None:
    """Sync a complete file or folder to disk, and rename it atomically."""
    for path in (*temporary.rglob("*"), temporary):
        sync_path(path)
    os.replace(temporary, target)
    sync_path(target.parent)


def remove_locked_folder(folder: Path) -> None:
    """Remove a locked folder and everything in it, the lock last."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
    (folder / LOCK).unlink()
    # Another process may have started to use it since.
    with suppress(OSError):
        folder.rmdir()


def remove_leftovers(out: Path) -> None:
    """Remove the folder of a process that was killed after it had finished `out`.

    A folder that another process has locked is left alone.
    """
    folder = partial_folder(out)
    if folder.exists():
        with suppress(StoreError, LockError, OSError), locked_folder(folder, "in use"):
            remove_locked_folder(folder)
