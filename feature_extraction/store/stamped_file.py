"""Read parts of a file that must not change after it was checked."""

import os
import weakref
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from feature_extraction.errors import StoreError

__all__ = ["TRUNCATED", "Stamp", "StampedFile", "stamp_of"]

# Size, and time of the last change in nanoseconds.
Stamp = tuple[int, int]
TRUNCATED = "it was truncated while in use"


def stamp_of(file: Path | int) -> Stamp:
    """Return the stamp of a path or of an open file."""
    found = os.stat(file)
    return found.st_size, found.st_mtime_ns


class StampedFile:
    """A file that is open in this process. Positioned reads have no state that forks would share.

    Args:
        path: The file.
        stamp: Its stamp when it was checked.

    Raises:
        StoreError: The file has another stamp.
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, stamp: Stamp) -> None:
        # Non-blocking: a pipe that replaced the file is detected instead of waited for.
        self.handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.close = weakref.finalize(self, os.close, self.handle)
        if stamp_of(self.handle) != stamp:
            raise StoreError("it was replaced or changed after it was opened; open it again")

    def fetch(self, offset: int, *targets: NDArray[Any]) -> None:
        """Fill contiguous arrays, one after another, with the bytes from `offset` on.

        Args:
            offset: Position of the first byte.
            targets: Arrays; at most 1024, the limit of one read.

        Raises:
            StoreError: The file ends before.
        """
        count = os.preadv(self.handle, [target.data for target in targets], offset)
        if count == sum(target.nbytes for target in targets):
            return
        for target in targets:
            start = min(count, target.nbytes)
            count -= start
            self._fetch_rest(offset + start, target.data.cast("B")[start:])
            offset += target.nbytes

    def _fetch_rest(self, offset: int, rest: memoryview) -> None:
        while rest:
            count = os.preadv(self.handle, [rest], offset)
            if count == 0:
                raise StoreError(TRUNCATED)
            rest, offset = rest[count:], offset + count
