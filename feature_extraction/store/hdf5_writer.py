"""Write HDF5 files so that a full disk raises an error instead of crashing the process.

HDF5 does not survive a failed write: its state is damaged, and it crashes the process later, at the
latest when Python exits. An exception in one of its callbacks, such as Ctrl-C, counts as a failed
write. Therefore:

* Small files are created in memory, and their bytes are written to disk (`hdf5_bytes`).
* Files whose features are written without HDF5 are laid out in a sparse file in memory, and copied
  (`memory_file`).
* For other files, HDF5 writes through a file object that records the first error instead of raising
  it, in a separate thread that Python never interrupts (`Hdf5Writer`).
"""

import errno
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import h5py

from feature_extraction.store.disk import create_memory_file, write_at

__all__ = ["Hdf5Writer", "check_size_limit", "hdf5_bytes", "hdf5_in", "memory_file"]

# Before, the superblock in the image of an open file has a wrong checksum. A file in memory has the
# same bytes, but HDF5 may crash if it reaches a limit on the size of files.
FIRST_WITH_VALID_IMAGES = (2, 0, 0)
# Upper bound on HDF5's own structures in a file of a few datasets.
OVERHEAD_BYTES = 2**16

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def hdf5_bytes(fill: Callable[[h5py.File], None], **options: Any) -> bytes:
    """Return the bytes of a small HDF5 file, created in memory.

    Args:
        fill: Function that creates the objects in the open file.
        options: Options for `h5py.File`.
    """
    if h5py.version.hdf5_version_tuple >= FIRST_WITH_VALID_IMAGES:
        with h5py.File("in memory", "w", driver="core", backing_store=False, **options) as file:
            fill(file)
            file.flush()
            content: bytes = file.id.get_file_image()
        return content
    with memory_file() as handle, tempfile.TemporaryDirectory() as folder:
        with hdf5_in(handle, Path(folder) / "small.h5", **options) as file:
            fill(file)
        return os.pread(handle, os.fstat(handle).st_size, 0)


@contextmanager
def memory_file() -> Iterator[int]:
    """Yield the descriptor of an empty, sparse file in memory, and close it after the block."""
    handle = create_memory_file("hdf5")
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def hdf5_in(handle: int, name: Path, **options: Any) -> Iterator[h5py.File]:
    """Create an HDF5 file in a file that is already open, and close it after the block.

    Args:
        handle: Descriptor of an empty file in memory.
        name: Path that is created and removed immediately: HDF5 can open neither descriptors nor
            links to them.
        options: Options for `h5py.File`.

    Raises:
        OSError: The path cannot be created.
    """
    # HDF5's own lock would fail on file systems without locks, and no other process writes there.
    with h5py.File(name, "w", locking=False, **options) as file:
        # Nothing has been written yet.
        os.dup2(handle, file.id.get_vfd_handle())
        name.unlink()
        yield file


def check_size_limit(size: int) -> None:
    """Check that this process may write a file of a size; the limit holds for memory files too.

    Args:
        size: Total size of all datasets in bytes.

    Raises:
        OSError: It is larger than `ulimit -f` allows.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and size + OVERHEAD_BYTES > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


class Hdf5Writer:
    """A new HDF5 file; a context manager that closes it.

    Regions that HDF5 does not write stay holes in the file.

    Args:
        path: File to create; an existing one is truncated.
        options: Options for `h5py.File`.

    Raises:
        OSError: The file cannot be created, or, at the end of the block, written.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        self._path = path
        self._output = _Output(path)
        self._options = options

    def __enter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, "hdf5")
        self._file: h5py.File = self._in_thread(
            h5py.File, self._path, "w", driver="fileobj", fileobj=self._output, **self._options
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._in_thread(self._file.close)
        finally:
            self._thread.shutdown()
            self._output.close()
        if error is None:
            self._output.check()

    def do(
        self,
        work: Callable[Concatenate[h5py.File, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Return the result of `work(file, *args, **kwargs)`, called in the writer's thread.

        Raises:
            OSError: This call or an earlier one could not write.
        """
        result = self._in_thread(work, self._file, *args, **kwargs)
        self._output.check()
        return result

    def _in_thread(self, work: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        return self._thread.submit(work, *args, **kwargs).result()


class _Output:
    """A file object for HDF5 whose writes never fail.

    After the first error, writes are kept in memory, so that HDF5 can read them back.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self._position = 0
        self._size = 0
        self._error: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the first error, if any."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, as `io.RawIOBase.seek` does."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def write(self, data: memoryview) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B")
        start = self._position
        self._position += len(view)
        self._size = max(self._size, self._position)
        if self._error is None:
            try:
                write_at(self._handle, view, start)
            except OSError as error:
                self._error = error
        if self._error is not None:
            self._unwritten.append((start, bytes(view)))
        return len(view)

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer`; bytes that were never written read as zeros."""
        view = memoryview(buffer).cast("B")
        found = os.pread(self._handle, len(view), self._position)
        view[:] = found + bytes(len(view) - len(found))
        for start, data in self._unwritten:
            low = max(start, self._position)
            high = min(start + len(data), self._position + len(view))
            if low < high:
                view[low - self._position : high - self._position] = data[
                    low - start : high - start
                ]
        self._position += len(view)
        return len(view)

    def truncate(self, size: int) -> int:
        """Set the size of the file."""
        self._size = size
        if self._error is None:
            try:
                os.truncate(self._handle, size)
            except OSError as error:
                self._error = error
        return size

    def flush(self) -> None:
        """Do nothing, because writes are not buffered."""
