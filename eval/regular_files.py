"""Safe opening of files: nothing in a folder can block the program or fill its memory.

An untrusted folder may contain a named pipe, a device or a link to one under any name. Only regular
files below a size limit are read. The exception is a pipe passed by the shell, as in
`--predictions <(zcat results.json.gz)`: only the user can have named it, so it is read, up to the
same limit.
"""

import io
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.errors import FileFormatError, InputError

__all__ = [
    "file_kind",
    "is_shell_pipe",
    "open_regular",
    "require_regular",
    "require_regular_if_any",
]

BLOCK_BYTES = 1 << 18
SHELL_PIPE = re.compile(r"/dev/stdin|(/dev|/proc/self)/fd/[0-9]+")
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def file_kind(mode: int) -> str:
    """Return the kind of a file from its `st_mode`, such as "a named pipe"."""
    return _kind_of_file(mode) or "a file"


def is_shell_pipe(path: Path) -> bool:
    """Return whether a path is one that the shell passes, which may be a pipe."""
    return SHELL_PIPE.fullmatch(str(path)) is not None


def require_regular(path: Path, *, expected: str) -> None:
    """Refuse a path that is not a regular file, which can be read more than once.

    Args:
        path: The file.
        expected: Description of the expected content, for messages ("the record of a run").

    Raises:
        InputError: There is no such file, it is not a regular file, or it is not readable.
    """
    _opened(path, expected, sys.maxsize, read_again=True).close()


def require_regular_if_any(path: Path) -> None:
    """Refuse an output path at which something other than a regular file exists.

    Raises:
        InputError: The path is a named pipe, a device or the like.
    """
    if path.exists() and (kind := _kind_of_file(path.stat().st_mode)) is not None:
        raise InputError(f"{path} is {kind}: expected a regular file or none. Remove it.")


def _kind_of_file(mode: int) -> str | None:
    """Return the kind of a special file, such as "a named pipe"; `None` for a regular file."""
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "a file of an unknown kind")


@contextmanager
def open_regular(
    path: Path, *, expected: str, max_bytes: int, read_again: bool = False
) -> Iterator[io.BufferedReader]:
    """Open a regular file for reading in binary mode; links are followed.

    Args:
        path: The file.
        expected: Description of the expected content, for messages ("the record of a run").
        max_bytes: Size limit.
        read_again: Whether the content is read more than once, which a pipe does not allow.

    Raises:
        InputError: There is no such file, it is not a regular file, or it is not readable.
        FileFormatError: The file is larger than the limit.
    """
    with _opened(path, expected, max_bytes, read_again) as file:
        yield io.BufferedReader(file, BLOCK_BYTES)


def _opened(path: Path, expected: str, max_bytes: int, read_again: bool) -> "_BoundedFile":
    from_shell = is_shell_pipe(path)
    allows_pipe = from_shell and not read_again
    # Without O_NONBLOCK, opening a named pipe without a writer would block.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | (0 if from_shell else os.O_NONBLOCK)
    try:
        # Opening some devices has side effects, so the path is checked first. The opened file may
        # be another one, so it is checked again.
        _require_regular(path, path.stat(), expected, max_bytes, allows_pipe)
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise InputError(f"no file {path}: expected {expected} there") from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); expected {expected} there"
        ) from None
    except ValueError:
        raise InputError(f"{str(path)!a} is not a valid file name; expected {expected}") from None
    file = _BoundedFile(descriptor, path, expected, max_bytes)
    try:
        _require_regular(path, os.fstat(descriptor), expected, max_bytes, allows_pipe)
    except InputError:
        file.close()
        raise
    return file


def _require_regular(
    path: Path, found: os.stat_result, expected: str, max_bytes: int, allows_pipe: bool
) -> None:
    kind = _kind_of_file(found.st_mode)
    if kind == "a folder":
        raise InputError(f"{path} is a folder: expected a file with {expected}")
    if kind is not None and not (allows_pipe and stat.S_ISFIFO(found.st_mode)):
        advice = (
            " It is read more than once: write it to a file first." if is_shell_pipe(path) else ""
        )
        raise InputError(f"{path} is {kind}: expected a regular file with {expected}.{advice}")
    if found.st_size > max_bytes:
        raise _too_large(path, f"{found.st_size:,} bytes", expected, max_bytes)


def _too_large(path: Path, found: str, expected: str, max_bytes: int) -> FileFormatError:
    return FileFormatError(
        f"{path} is too large: found {found}, expected {expected}, at most {max_bytes:,} bytes"
    )


class _BoundedFile(io.FileIO):
    """A file with an upper limit on the bytes read, regardless of its reported size.

    Args:
        descriptor: Descriptor of the open file, which this object closes.
        path: Path of the file, for messages.
        expected: Description of the expected content, for messages.
        max_bytes: Size limit.
    """

    def __init__(self, descriptor: int, path: Path, expected: str, max_bytes: int) -> None:
        super().__init__(descriptor)
        self._path = path
        self._expected = expected
        self._max_bytes = max_bytes
        self._read_bytes = 0

    def readinto(self, buffer: Any, /) -> int:
        return self._count(super().readinto(buffer))

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        block = super().read(size)
        self._count(None if block is None else len(block))
        return block

    def readall(self) -> bytes:
        blocks = []
        while block := self.read(BLOCK_BYTES):
            blocks.append(block)
        return b"".join(blocks)

    def _count(self, count: int | None) -> int:
        # Some kernel files are reported as regular but wait for events.
        if count is None:
            raise InputError(
                f"{self._path} returns no content: expected a regular file with {self._expected}"
            )
        self._read_bytes += count
        if self._read_bytes > self._max_bytes:
            found = f"more than {self._max_bytes:,} bytes"
            raise _too_large(self._path, found, self._expected, self._max_bytes)
        return count
