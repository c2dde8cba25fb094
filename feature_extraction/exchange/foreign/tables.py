"""Files with one row per image, read block by block in row order.

Supported layouts:

    NAME.h5           the datasets `features` and `image_ids` (or `ids`, `keys`, ...)
    NAME.npz          arrays of the same names, or only features, as in .npy
    NAME.npy          features; names in `image_ids.npy` or `image_ids.txt` next to it, or, for
                      clip-retrieval's img_emb/img_emb_0.npy, in metadata/metadata_0.parquet
    NAME.safetensors  the tensors `features` and `image_ids`, the latter with integers
    NAME.parquet      a column of lists, or lists of lists, of numbers, and a column of names

Features are [images, tokens, channels] or [images, channels]. Nothing is unpickled.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from zipfile import ZipFile

import h5py
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from feature_extraction.errors import FeatureFileError
from feature_extraction.exchange.foreign.feature_file import (
    DAMAGE_ERRORS,
    FEATURES,
    ID_NAMES,
    UNKNOWN_SIZE,
    FeatureFile,
    StoredArray,
    explain_damage,
    find_features_name,
    refusal,
)
from feature_extraction.exchange.foreign.hdf5 import check_rows, read_names
from feature_extraction.exchange.foreign.npy import read_npy_names, read_rows_header
from feature_extraction.exchange.foreign.parquet import ParquetColumn
from feature_extraction.exchange.foreign.parquet_columns import read_columns
from feature_extraction.names import abbreviate
from feature_extraction.store.disk import require_regular_file
from feature_extraction.store.layout import MAX_IMAGES

__all__ = ["open_row", "open_table"]

BLOCK_BYTES = 2**24


class Table(ABC):
    """A file with one row per image; one block of rows at a time is in memory.

    Args:
        path: The file.
        shape: Shape of all features: `[images, tokens, channels]` or `[images, channels]`.
        chunk_rows: Number of rows to read together, such as the rows of a chunk.
    """

    def __init__(self, path: Path, shape: Sequence[int], chunk_rows: int = 1) -> None:
        if len(shape) not in (2, 3) or not 1 <= shape[0] <= MAX_IMAGES:
            raise refusal(
                path,
                f"the features have the shape {list(shape)}, expected [images, tokens, channels] "
                "or [images, channels]",
            )
        self.path = path
        self.rows = int(shape[0])
        self.row_shape = tuple(int(length) for length in shape[1:])
        affordable = max(1, BLOCK_BYTES // max(1, 4 * math.prod(self.row_shape)))
        self._block_rows = max(affordable // chunk_rows, 1) * chunk_rows
        self._start = -1
        self._block: NDArray[Any] = np.zeros(0)

    def image_size(self, row: int) -> tuple[int, int]:
        """Return height and width of a row's photograph in pixels; zeros if not known."""
        return UNKNOWN_SIZE

    # Whether a row can be read without the rows before it.
    is_random_access = True
    _names: list[str] | None = None

    def names(self) -> list[str] | None:
        """Return the name of each row; `None` if the file has no names."""
        return self._names

    @abstractmethod
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the rows `start` to `stop`."""

    def row(self, number: int) -> NDArray[Any]:
        """Return one row; its whole block is read and kept."""
        start = number - number % self._block_rows
        if start != self._start:
            self._start = -1
            try:
                self._block = self.read(start, min(start + self._block_rows, self.rows))
            except DAMAGE_ERRORS:
                if not self.is_random_access:
                    raise
                # Only other rows of the block may be damaged.
                return cast("NDArray[Any]", self.read(number, number + 1)[0])
            self._start = start
        return cast("NDArray[Any]", self._block[number - start])


class _Hdf5Table(Table):
    def __init__(self, path: Path) -> None:
        with h5py.File(path, "r", locking=False) as opened:
            dataset = check_rows(path, opened)
            self._names = read_names(path, opened, dataset.shape[0])
            self._features = dataset.name
            super().__init__(path, dataset.shape, (dataset.chunks or (1,))[0])

    def read(self, start: int, stop: int) -> NDArray[Any]:
        # Opened for each block, because nothing closes a table.
        with h5py.File(self.path, "r", locking=False) as opened:
            return np.asarray(opened[self._features][start:stop])


class _NpyTable(Table):
    def __init__(self, path: Path) -> None:
        with path.open("rb") as opened:
            shape, self._dtype = read_rows_header(path, opened)
            self._offset = opened.tell()
        super().__init__(path, shape)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        size = math.prod(self.row_shape)
        with self.path.open("rb") as opened:
            opened.seek(self._offset + start * size * self._dtype.itemsize)
            values = np.fromfile(opened, self._dtype, (stop - start) * size)
        if values.size < (stop - start) * size:
            raise EOFError("the file ends before it")
        return values.reshape(stop - start, *self.row_shape)


class _NpzTable(Table):
    is_random_access = False

    def __init__(self, path: Path) -> None:
        self._member: Any = None
        with ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            self._features = members[_find_features(path, members)]
            with archive.open(self._features) as opened:
                shape, self._dtype = read_rows_header(path, opened)
                self._offset = opened.tell()
            name = next((name for name in ID_NAMES if name in members), None)
            super().__init__(path, shape)
            if name is not None:
                with archive.open(members[name]) as opened:
                    size = archive.getinfo(members[name]).file_size
                    self._names = read_npy_names(path, opened, self.rows, size)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        if self._member is None:
            # Kept open, because compressed data can only be read from the start.
            self._member = ZipFile(self.path).open(self._features)
        row_bytes = math.prod(self.row_shape) * self._dtype.itemsize
        self._member.seek(self._offset + start * row_bytes)
        values = np.frombuffer(self._member.read((stop - start) * row_bytes), self._dtype)
        return values.reshape(stop - start, *self.row_shape)


class _SafetensorsTable(Table):
    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="pt") as opened:
            names = list(opened.keys())
            self._features = _find_features(path, names)
            super().__init__(path, opened.get_slice(self._features).get_shape())
            name = next((name for name in ID_NAMES if name in names), None)
            if name is not None:
                ids = opened.get_tensor(name)
                if ids.is_floating_point() or tuple(ids.shape) != (self.rows,):
                    raise refusal(
                        path,
                        f"{name} is {str(ids.dtype).removeprefix('torch.')} {list(ids.shape)}, "
                        f"expected {self.rows:,} integers",
                    )
                self._names = [str(number) for number in ids.tolist()]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        with safe_open(self.path, framework="pt") as opened:
            values: NDArray[Any] = opened.get_slice(self._features)[start:stop].float().numpy()
        return values


class _ParquetTable(Table):
    is_random_access = False

    def __init__(self, path: Path) -> None:
        self.columns = read_columns(path)
        super().__init__(path, (self.columns.rows, *self.columns.row_shape))
        self._names = self.columns.names
        self._column: ParquetColumn | None = None
        self._reasons: list[str] = []
        # Rows that cannot be read because of damage before them, and the damage.
        self._lost = range(0)
        self._damage = ""

    def image_size(self, row: int) -> tuple[int, int]:
        sizes = self.columns.image_sizes
        return UNKNOWN_SIZE if sizes is None else sizes[row]

    def row(self, number: int) -> NDArray[Any]:
        if number in self._lost:
            raise EOFError(self._damage)
        try:
            values, reason = super().row(number), self._reasons[number - self._start]
        except DAMAGE_ERRORS:
            if number in self._lost:
                raise
            # Only the row group before it is damaged.
            values, reason = self.read(number, number + 1)[0], self._reasons[0]
        if reason:
            raise FeatureFileError(f"row {number:,} of {self.path.name}: {reason}")
        return values

    def read(self, start: int, stop: int) -> NDArray[Any]:
        column, self._column = self._column, None
        if column is None or column.position > start:
            column = ParquetColumn(self.columns, start, self._block_rows)
        try:
            values, self._reasons = column.read(start, stop)
        except DAMAGE_ERRORS as error:
            # Nothing after it in the row group can be decoded.
            self._lost = range(start, self.columns.group_end(column.position))
            self._damage = str(error)
            raise
        self._column = column
        return values


TABLES: dict[str, type[Any]] = {
    ".h5": _Hdf5Table,
    ".hdf5": _Hdf5Table,
    ".npy": _NpyTable,
    ".npz": _NpzTable,
    ".safetensors": _SafetensorsTable,
    ".parquet": _ParquetTable,
}


def open_table(path: Path) -> Table:
    """Open a file with one row per image.

    Raises:
        StoreError: It is damaged, holds something else, or is not safe to read.
    """
    require_regular_file(path)
    with explain_damage(path):
        found = path.stat()
        return _table(path, found.st_size, found.st_mtime_ns)


# Images are requested one by one, in row order.
@lru_cache(maxsize=1)
def _table(path: Path, size: int, changed: int) -> Table:
    table: Table = TABLES[path.suffix.lower()](path)
    return table


@contextmanager
def open_row(file: FeatureFile) -> Iterator[StoredArray]:
    """Open the features of one image in a file with one row per image."""
    table, row = open_table(file.path), file.row
    if row is None or row >= table.rows:
        raise refusal(file.path, f"it has {table.rows:,} rows now, but had more before")
    yield StoredArray(table.row_shape, lambda: table.row(row), table.image_size(row))


def _find_features(path: Path, names: Iterable[str]) -> str:
    names = list(names)
    if (name := find_features_name(names)) is not None:
        return name
    raise refusal(path, f"it holds {abbreviate(names, 3)}, expected {FEATURES} and image_ids")
