"""Where output goes: what may be there already, and the folder for unfinished work.

Work on `FILE` is done in the folder `FILE.partial`, which one process has at a time, and takes its
name when it is whole. Where `FILE` is a symbolic link to a file, that file is replaced, the folder
is next to it, and the link stays.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from feature_extraction.errors import LockError, StoreError
from feature_extraction.store.disk import (
    file_kind,
    lock_file,
    sync_file,
    sync_folder,
    write_errors_explained,
)

__all__ = [
    "LOCK",
    "check_folder_target",
    "check_target",
    "link_target",
    "locked_folder",
    "partial_folder",
    "remove_folder",
    "remove_leftovers",
    "written_whole",
]

LOCK = ".lock"
ATTEMPTS = 10

FOLDER, FILE = file_kind(stat.S_IFDIR), file_kind(stat.S_IFREG)


def link_target(path: Path) -> Path:
    """Return the path that `path` leads to when it is a symbolic link, else `path` itself."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def partial_folder(out: Path) -> Path:
    """Return the folder that holds the unfinished work on `out`."""
    target = link_target(out)
    return target.with_name(target.name + ".partial")


def check_target(out: Path) -> None:
    """Make sure that a feature file can be written at `out`, and create its folder if needed.

    Raises:
        StoreError: It cannot; the message says what is there and what to do.
    """
    with _place_errors_explained(out):
        found = _what_is_at(out)
        if found == FOLDER:
            raise StoreError(
                f"{out} is a folder, expected a file to write. Give the name of a file, such as "
                f"{out / 'x.h5'}."
            )
        _check_place(out, found, FILE)


def check_folder_target(out: Path) -> None:
    """Make sure that a folder can be written at `out`, and create its parent folder if needed.

    Raises:
        StoreError: It cannot; the message says what is there and what to do.
    """
    with _place_errors_explained(out):
        _check_place(out, _what_is_at(out), FOLDER)


@contextmanager
def _place_errors_explained(out: Path) -> Iterator[None]:
    """Name `out` where a path next to it is refused, such as one whose name becomes too long."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror}. Give another --out.") from None


def _check_place(out: Path, found: str | None, expected: str) -> None:
    if found not in (None, expected):
        raise StoreError(
            f"cannot write {out}: it is {found}, expected {expected} or nothing. Give another "
            "--out."
        )
    for parent in reversed(out.absolute().parents):
        kind = _what_is_at(parent)
        if kind not in (None, FOLDER):
            raise StoreError(
                f"cannot write {out}: {parent} is {kind}, expected a folder. Give another --out."
            )
    folder = partial_folder(out)
    kind = "a symbolic link" if folder.is_symlink() else _what_is_at(folder)
    if kind not in (None, FOLDER):
        raise StoreError(
            f"cannot write {out}: {folder} is {kind}, expected a folder for unfinished work or "
            "nothing. Remove it, or give another --out."
        )
    # Other processes that look at the same place make and remove it as well.
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        pass
    except OSError as error:
        raise StoreError(
            f"cannot write {out}: {error.strerror}. Choose a place you may write to."
        ) from None
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        # It holds unfinished work.
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreError(
                f"cannot write {out}: no permission to write into {folder}. Choose a place you may "
                "write to."
            ) from None


def _what_is_at(path: Path) -> str | None:
    """Return the kind of what a path leads to; `None` if nothing is there.

    Raises:
        StoreError: It cannot be determined, for example without permission to search a folder.
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
        raise StoreError(
            f"cannot write {path}: {error.strerror}. Choose a place you may write to."
        ) from None


@contextmanager
def locked_folder(folder: Path, busy: str) -> Iterator[None]:
    """Create a folder if needed, and keep other processes out of it in the block.

    Args:
        folder: The folder; it holds the file `LOCK` from then on.
        busy: Message when another process has it.

    Raises:
        StoreError: Another process has it.
        LockError: Its file system has no locks.
        OSError: It cannot be written.
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
        # A process that finishes removes the file it had locked.
        if not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
            raise StoreError(busy)
        yield
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    for _ in range(ATTEMPTS):
        with suppress(FileExistsError):
            path.parent.mkdir(parents=True)
        # Another process that looks at the place may remove the empty folder in between.
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


@contextmanager
def written_whole(out: Path, name: str = "whole") -> Iterator[Path]:
    """Yield a temporary path that takes the place of `out` when the block ends without error.

    What a killed process left of the same work is removed.

    Args:
        out: File to write.
        name: Name of the temporary file.

    Raises:
        StoreError: Another process writes there, an extraction into `out` is unfinished, the disk
            is full, or the place cannot be written; `out` is as it was.
    """
    target, folder = link_target(out), partial_folder(out)
    busy = f"another process is writing {out}; wait for it to end, or give another --out"
    with write_errors_explained(out), locked_folder(folder, busy):
        others = {entry.name for entry in folder.iterdir()} - {LOCK, name}
        if others:
            raise StoreError(
                f"{folder} holds an extraction under way; let it end, or remove the folder"
            )
        temporary = folder / name
        kind = _what_is_at(temporary)
        if kind not in (None, FILE):
            raise StoreError(
                f"cannot write {out}: {temporary} is {kind}, expected what an interrupted run left "
                "there. Remove it."
            )
        try:
            yield temporary
            sync_file(temporary)
            os.replace(temporary, target)
            sync_folder(target.parent)
        finally:
            remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove a locked folder with all it holds, the lock last."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
    (folder / LOCK).unlink()
    # Another process may have begun in it since.
    with suppress(OSError):
        folder.rmdir()


def remove_leftovers(out: Path) -> None:
    """Remove the folder that a process left when it was killed after it had finished `out`.

    A folder that another process works in is left alone.
    """
    folder = partial_folder(out)
    if folder.exists():
        with suppress(StoreError, LockError, OSError), locked_folder(folder, "in use"):
            remove_folder(folder)
