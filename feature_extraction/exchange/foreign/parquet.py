"""Features in Parquet files: a column of lists of numbers, and a column of image names."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_extraction.exchange.foreign.feature_file import (
    FEATURES,
    ID_NAMES,
    find_features_name,
    refusal,
)
from feature_extraction.store.layout import MAX_VALUES_PER_IMAGE

if TYPE_CHECKING:
    import pyarrow

__all__ = ["ParquetColumn", "ParquetColumns", "find_features_column", "read_columns", "read_names"]

# The first two are from the metadata of clip-retrieval.
METADATA_NAMES = ("image_path", "key", *ID_NAMES)


@dataclass(frozen=True, slots=True)
class ParquetColumns:
    """The columns of features and names of a file.

    Args:
        path: The file.
        rows: Number of rows.
        row_shape: Shape of one image's features: `[tokens, channels]` or `[channels]`.
        features_name: Name of the column of features.
        names_name: Name of the column of image names.
    """

    path: Path
    rows: int
    row_shape: tuple[int, ...]
    features_name: str
    names_name: str

    def names(self) -> list[str]:
        """Return the name of each row."""
        return _read_name_column(self.path, self.names_name)

    def features(self, batch_rows: int) -> "ParquetColumn":
        """Start reading the column of features."""
        return ParquetColumn(self, batch_rows)


class ParquetColumn:
    """A column of features that is read sequentially, a few rows at a time.

    Args:
        columns: The file.
        batch_rows: Number of rows to decode at a time.
    """

    def __init__(self, columns: ParquetColumns, batch_rows: int) -> None:
        self._shape = columns.row_shape
        self._batches = _batches(columns.path, columns.features_name, batch_rows)
        self._rest: NDArray[Any] = np.zeros((0, *self._shape))
        self.position = 0
        """The next row."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the rows `start` to `stop`; `start` must not be before `position`.

        Raises:
            ValueError: A row is null or has another length.
            EOFError: There are fewer rows.
        """
        kept = []
        while self.position < stop:
            if not len(self._rest):
                self._rest = _decode_rows(next(self._batches, None), self._shape)
            count = min(len(self._rest), (start if self.position < start else stop) - self.position)
            if self.position >= start:
                kept.append(self._rest[:count])
            self._rest = self._rest[count:]
            self.position += count
        return np.concatenate(kept)


def find_features_column(path: Path) -> str | None:
    """Return the name of the column that may hold features; `None` if there is none."""
    import pyarrow.parquet

    return find_features_name(pyarrow.parquet.read_schema(path).names)


def read_columns(path: Path) -> ParquetColumns:
    """Examine the columns of a file; only the first row of features is read.

    Raises:
        StoreError: There is no column of features or of names, or its type is wrong.
    """
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as opened:
        schema, rows = opened.schema_arrow, opened.metadata.num_rows
    features = find_features_name(schema.names)
    names = next((name for name in ID_NAMES if name in schema.names), None)
    if features is None or names is None:
        raise refusal(
            path,
            f"it has the columns {', '.join(schema.names[:8])}; expected {FEATURES} and "
            f"one of {', '.join(ID_NAMES[:4])}",
        )
    kind, depth = _storage_type(schema.field(features).type), 0
    while (
        pyarrow.types.is_list(kind)
        or pyarrow.types.is_fixed_size_list(kind)
        or (pyarrow.types.is_large_list(kind))
    ):
        kind, depth = kind.value_type, depth + 1
    if depth not in (1, 2) or not pyarrow.types.is_floating(kind):
        raise refusal(
            path,
            f"the column {features} is {schema.field(features).type}, expected lists, or lists of "
            "lists, of floating point",
        )
    first = next(_batches(path, features, 1), None)
    if first is None or not first[0].is_valid:
        raise refusal(path, f"its first row has no {features}")
    shape = np.shape(first[0].as_py())
    if len(shape) != depth or not 1 <= math.prod(shape) <= MAX_VALUES_PER_IMAGE:
        raise refusal(path, f"the first row of {features} has the shape {list(shape)}")
    return ParquetColumns(path, rows, shape, features, names)


def read_names(path: Path) -> list[str]:
    """Read image names from a metadata file.

    Raises:
        StoreError: There is no column of names, or its values are neither strings nor integers.
    """
    import pyarrow.parquet

    columns = pyarrow.parquet.read_schema(path).names
    name = next((name for name in METADATA_NAMES if name in columns), None)
    if name is None:
        raise refusal(
            path,
            f"it has the columns {', '.join(columns[:8])}; expected one with image names, "
            f"such as {', '.join(METADATA_NAMES[:2])}",
        )
    return _read_name_column(path, name)


def _read_name_column(path: Path, name: str) -> list[str]:
    import pyarrow.parquet

    values = pyarrow.parquet.read_table(path, columns=[name]).column(name).to_pylist()
    for row, value in enumerate(values):
        if type(value) not in (str, int):
            raise refusal(
                path, f"row {row:,} of the column {name} is {value!r:.60}, expected a string"
            )
    return [str(value) for value in values]


def _batches(path: Path, name: str, rows: int) -> "Iterator[pyarrow.Array]":
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as opened:
        for batch in opened.iter_batches(batch_size=rows, columns=[name]):
            yield batch.column(0)


def _decode_rows(column: "pyarrow.Array | None", shape: tuple[int, ...]) -> NDArray[Any]:
    """Return values `[rows, *shape]`; NaN for rows that are null or have another length."""
    import pyarrow.compute

    if column is None:
        raise EOFError("it has fewer rows than it declares")
    column = getattr(column, "storage", column)
    lengths = pyarrow.compute.list_value_length(column)
    is_whole = pyarrow.compute.fill_null(pyarrow.compute.equal(lengths, shape[0]), False)
    given = is_whole.to_numpy(zero_copy_only=False)
    values: Any = column.filter(is_whole)
    for length in shape:
        values = getattr(values, "storage", values)
        lengths = pyarrow.compute.list_value_length(values).to_numpy(zero_copy_only=False)
        if values.null_count or (lengths != length).any():
            raise ValueError(f"rows differ in length, or have gaps: expected {list(shape)}")
        values = values.flatten()
    if values.null_count:
        raise ValueError("a value is null")
    numbers: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(-1, *shape)
    if given.all():
        return numbers
    spread = np.full((len(given), *shape), np.nan, numbers.dtype)
    spread[given] = numbers
    return spread


def _storage_type(kind: Any) -> Any:
    return getattr(kind, "storage_type", kind)
