"""Atomic writing of output files.

A path may name a regular file, a symbolic link to one, or something that must not be replaced: a
pipe, a device, or a descriptor such as `/dev/stdout`. `atomic_path` replaces a regular file and the
target of a link, and writes into the others.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from eval.errors import OutputError

__all__ = [
    "NO_PERMISSION",
    "TEMPORARY_SUFFIX",
    "atomic_path",
    "check_output",
    "json_bytes",
    "names_standard_output",
    "write_json",
]

TEMPORARY_SUFFIX = ".vl-lst.tmp"
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
# The limit of Linux.
MAX_LINKS = 40


def check_output(path: Path) -> None:
    """Check that a file can be written at `path`, before its content is computed.

    Creates nothing. `atomic_path` creates missing folders.

    Raises:
        OutputError: The path is a folder, or the file cannot be created or written.
    """
    with _explain_errors(path):
        kind = _existing_kind(path)
        if kind == stat.S_IFDIR:
            raise OutputError(f"{path} is a folder: expected the path of a file to write")
        if kind == stat.S_IFSOCK:
            raise OutputError(f"{path} is a socket: expected the path of a file to write")
        if not _is_replaceable(path):
            descriptor = _descriptor(path)
            if descriptor is None and not os.access(path, os.W_OK):
                raise OutputError(f"cannot write {path}: no permission. Choose another path")
            if descriptor is not None and not _is_open_for_writing(descriptor):
                raise OutputError(
                    f"cannot write {path}: it is open for reading only. Choose another path"
                )
            return
        folder = _target(path).parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise OutputError(
                f"cannot write {path}: {folder} is a file, expected a folder. Choose another path"
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(
                f"cannot write {path}: no permission to create files in {folder}. Choose another "
                "path"
            )


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path whose content replaces that of `path` if the block succeeds.

    A reader of a regular file sees either the old file or the complete new one. A symbolic link is
    kept, and its target is replaced. A pipe, a device or a descriptor is written at the end of the
    block.

    Raises:
        OutputError: The file cannot be written; an existing file is unchanged.
    """
    check_output(path)
    if not _is_replaceable(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / "output"
            temporary.touch()
            with _explain_errors(path, temporary):
                yield temporary
                _copy_into(temporary, path)
        return
    target = _target(path)
    with _explain_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target.parent)
        handle, temporary = _create_temporary(target)
    try:
        with _explain_errors(path, temporary):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(_mode(target))
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Write `value` as JSON, atomically.

    Raises:
        OutputError: The file cannot be written.
        ValueError: The value contains NaN or an infinity, which JSON does not allow.
    """
    content = json_bytes(value, indent=indent)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def json_bytes(value: object, *, indent: int | None = 2) -> bytes:
    """Return `value` as JSON in UTF-8, with a trailing line feed.

    Raises:
        ValueError: The value contains NaN or an infinity, which JSON does not allow.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    # File names that are not UTF-8 contain lone surrogates, which JSON escapes as `\udcff`.
    return (text + "\n").encode("utf-8", "backslashreplace")


def names_standard_output(path: Path) -> bool:
    """Return whether `path` is the standard output of this process, such as `/dev/stdout`."""
    return _descriptor(path) == 1


def _existing_kind(path: Path) -> int | None:
    """Return the file type of `path` (`stat.S_IFREG`, ...); `None` if it does not exist."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_replaceable(path: Path) -> bool:
    return _existing_kind(path) in (None, stat.S_IFREG) and _descriptor(path) is None


def _target(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _descriptor(path: Path) -> int | None:
    """Return the descriptor of this process that a path stands for; `None` for other files.

    Resolving the path is not enough: if standard output is redirected to a file, `/dev/stdout`
    resolves to that file, and replacing it would lose earlier output.
    """
    own = re.compile(rf"/dev/fd|/proc/{os.getpid()}(/task/\d+)?/fd")
    for _ in range(MAX_LINKS):
        if path.name.isdecimal() and own.fullmatch(os.path.realpath(path.parent)):
            return int(path.name)
        if not path.is_symlink():
            break
        path = path.parent / os.readlink(path)
    return None


def _is_open_for_writing(descriptor: int) -> bool:
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _copy_into(source: Path, path: Path) -> None:
    descriptor = _descriptor(path)
    if descriptor == 1 and sys.stdout is not None:
        sys.stdout.flush()
    handle = os.open(path, os.O_WRONLY) if descriptor is None else os.dup(descriptor)
    with source.open("rb") as content, os.fdopen(handle, "wb") as stream:
        shutil.copyfileobj(content, stream)


def _create_temporary(target: Path) -> tuple[int, Path]:
    """Create an empty file that `_remove_stale` keeps while its handle is open."""
    while True:
        handle, name = tempfile.mkstemp(
            prefix=f".{target.name[:40]}.", suffix=TEMPORARY_SUFFIX, dir=target.parent
        )
        _try_lock(handle)
        # Another process may have removed it before it was locked.
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)


@cache
def _remove_stale(folder: Path) -> None:
    """Remove temporary files of killed writers, once per process since folders can be large."""
    for entry in os.scandir(folder):
        if entry.name.startswith(".") and entry.name.endswith(TEMPORARY_SUFFIX):
            try:
                handle = os.open(entry.path, os.O_RDWR | os.O_NOFOLLOW)
            except OSError:
                continue
            if _try_lock(handle):
                Path(entry.path).unlink(missing_ok=True)
            os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked by its writer, or on a file system without locks
        return False
    return True


def _mode(target: Path) -> int:
    """Return the permissions of the replaced file, or of a new file if there is none."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


@contextmanager
def _explain_errors(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn errors about a file, or its temporary file, into an `OutputError`.

    Raises:
        OutputError: The message names `path`, not the temporary file.
    """
    try:
        yield
    except ValueError as error:
        if temporary is not None:  # raised by the block that computes the content
            raise
        raise OutputError(f"cannot write {str(path)!r}: {error}") from None
    except OSError as error:
        names = {None, str(path), str(temporary)}
        if temporary is not None and error.filename not in names:
            raise
        if error.errno in OUT_OF_SPACE:
            reason = "no space left on the device. Free some space and run the command again"
        elif error.errno in NO_PERMISSION:
            reason = f"no permission ({error.strerror}). Choose another path"
        else:
            reason = f"{error.strerror or error}. Choose another path"
        raise OutputError(f"cannot write {path}: {reason}") from error
