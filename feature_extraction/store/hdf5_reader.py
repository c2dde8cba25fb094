"""Open HDF5 files for reading, and explain why one cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py

from feature_extraction.errors import HOW_TO_EXTRACT, StoreError
from feature_extraction.store.outputs import partial_folder

__all__ = ["FEATURE_FILE", "READ_ERRORS", "FileKind", "open_hdf5", "read_error"]

READ_ERRORS = (StoreError, OSError, RuntimeError, ValueError, KeyError, TypeError)


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file holds, for messages.

    Args:
        content: What it holds, such as `feature` in `feature file`.
        command: Command that makes such a file.
    """

    content: str
    command: str


FEATURE_FILE = FileKind("feature", HOW_TO_EXTRACT)


@contextmanager
def open_hdf5(path: Path, kind: FileKind = FEATURE_FILE) -> Iterator[h5py.File]:
    """Open a file or an index for reading.

    Args:
        path: The file.
        kind: What it should hold.

    Raises:
        StoreError: The file is missing, unfinished or damaged, in the call or in the block.
    """
    if not path.is_file():
        raise StoreError(
            f"{kind.content} file {path} {_absence(path)}. Make it with {kind.command}"
        )
    try:
        # Files are replaced as a whole, never written in place, and some file systems have no
        # locks.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except READ_ERRORS as error:
        raise read_error(path, error, kind) from error


def _absence(path: Path) -> str:
    """Describe what exists where a file was expected."""
    if path.is_dir():
        return "is a folder"
    if path.exists():
        return "does not exist as a file: it is a device, a named pipe or a socket"
    if partial_folder(path).exists():
        return "is not finished: run the same command again"
    return "does not exist"


def read_error(path: Path, error: Exception, kind: FileKind = FEATURE_FILE) -> StoreError:
    """Return the error to raise when HDF5 or the system cannot read a file."""
    if isinstance(error, StoreError):
        return StoreError(f"{path}: {error}")
    if isinstance(error, PermissionError):
        return StoreError(
            f"{path} cannot be read: permission denied. Ask its owner for permission to read it, "
            "or choose another file."
        )
    return StoreError(
        f"{path} cannot be read as an HDF5 {kind.content} store ({error}). It is damaged, "
        "truncated or another kind of file: copy it again from its source, or extract the "
        f"{kind.content}s again: {kind.command}"
    )
