"""Features in Parquet: a column of numbers in lists, and a column of names."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_extraction.exchange.feature_files import (
    FEATURES,
    ID_NAMES,
    FeatureFile,
    features_name,
    refusal,
)
from feature_extraction.store.layout import MOST_VALUES_PER_IMAGE

if TYPE_CHECKING:
    import pyarrow

__all__ = ["ParquetColumn", "ParquetColumns", "find_features_column", "read_columns", "read_names"]

# As clip-retrieval writes its metadata.
METADATA_NAMES = ("image_path", "key", *ID_NAMES)


@dataclass(frozen=True, slots=True)
class ParquetColumns:
    """The columns of a file that matter.

    Args:
        path: The file.
        rows: How many it has.
        row_shape: Of one image's features: `[tokens, channels]` or `[channels]`.
        features_name: Of the column of features.
        names_name: Of the column of names.
    """

    path: Path
    rows: int
    row_shape: tuple[int, ...]
    features_name: str
    names_name: str

    def names(self) -> list[str]:
        """Return the name of each row."""
        return _column_of_names(FeatureFile("", self.path), self.names_name)

    def features(self, rows_at_once: int) -> "ParquetColumn":
        """Begin to read the column of features."""
        return ParquetColumn(self, rows_at_once)


class ParquetColumn:
    """A column of features, read from its first row on; nothing but some rows is in memory.

    Args:
        columns: The file.
        rows_at_once: How many rows are decoded at a time.
    """

    def __init__(self, columns: ParquetColumns, rows_at_once: int) -> None:
        self._shape = columns.row_shape
        self._batches = _batches(columns.path, columns.features_name, rows_at_once)
        self._rest: NDArray[Any] = np.zeros((0, *self._shape))
        self.position = 0
        """The next row."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows from `position` on, or after it.

        Raises:
            ValueError: A row is null or of another length.
            EOFError: There are fewer rows.
        """
        kept = []
        while self.position < stop:
            if not len(self._rest):
                self._rest = _values(next(self._batches, None), self._shape)
            count = min(len(self._rest), (start if self.position < start else stop) - self.position)
            if self.position >= start:
                kept.append(self._rest[:count])
            self._rest = self._rest[count:]
            self.position += count
        return np.concatenate(kept)


def find_features_column(path: Path) -> str | None:
    """Return the name of the column that may hold features; `None` where there is none."""
    import pyarrow.parquet

    return features_name(pyarrow.parquet.read_schema(path).names)


def read_columns(file: FeatureFile) -> ParquetColumns:
    """Look at the columns of a file; only the first row of features is read.

    Raises:
        StoreError: It has no column of features or of names, or they are of another type.
    """
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file.path) as opened:
        schema, rows = opened.schema_arrow, opened.metadata.num_rows
    features = features_name(schema.names)
    names = next((name for name in ID_NAMES if name in schema.names), None)
    if features is None or names is None:
        raise refusal(
            file,
            f"it has the columns {', '.join(schema.names[:8])}; expected {FEATURES} and "
            f"one of {', '.join(ID_NAMES[:4])}",
        )
    kind, depth = _storage(schema.field(features).type), 0
    while (
        pyarrow.types.is_list(kind)
        or pyarrow.types.is_fixed_size_list(kind)
        or (pyarrow.types.is_large_list(kind))
    ):
        kind, depth = kind.value_type, depth + 1
    if depth not in (1, 2) or not pyarrow.types.is_floating(kind):
        raise refusal(
            file,
            f"the column {features} is {schema.field(features).type}, expected lists, or lists of "
            "lists, of floating point",
        )
    first = next(_batches(file.path, features, 1), None)
    if first is None or not first[0].is_valid:
        raise refusal(file, f"its first row has no {features}")
    shape = np.shape(first[0].as_py())
    if len(shape) != depth or not 1 <= math.prod(shape) <= MOST_VALUES_PER_IMAGE:
        raise refusal(file, f"the first row of {features} has the shape {list(shape)}")
    return ParquetColumns(file.path, rows, shape, features, names)


def read_names(file: FeatureFile) -> list[str]:
    """Read the names of images from a file of metadata.

    Raises:
        StoreError: It has no column of names, or its names are neither texts nor whole numbers.
    """
    import pyarrow.parquet

    columns = pyarrow.parquet.read_schema(file.path).names
    name = next((name for name in METADATA_NAMES if name in columns), None)
    if name is None:
        raise refusal(
            file,
            f"it has the columns {', '.join(columns[:8])}; expected one with the names of images, "
            f"such as {', '.join(METADATA_NAMES[:2])}",
        )
    return _column_of_names(file, name)


def _column_of_names(file: FeatureFile, name: str) -> list[str]:
    import pyarrow.parquet

    values = pyarrow.parquet.read_table(file.path, columns=[name]).column(name).to_pylist()
    for row, value in enumerate(values):
        if type(value) not in (str, int):
            raise refusal(
                file, f"row {row:,} of the column {name} is {value!r:.60}, expected a text"
            )
    return [str(value) for value in values]


def _batches(path: Path, name: str, rows: int) -> "Iterator[pyarrow.Array]":
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as opened:
        for batch in opened.iter_batches(batch_size=rows, columns=[name]):
            yield batch.column(0)


def _values(column: "pyarrow.Array | None", shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the numbers of some rows, `[rows, *shape]`; NaN where a row is null or too long."""
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
        raise ValueError("a number is null")
    numbers: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(-1, *shape)
    if given.all():
        return numbers
    spread = np.full((len(given), *shape), np.nan, numbers.dtype)
    spread[given] = numbers
    return spread


def _storage(kind: Any) -> Any:
    return getattr(kind, "storage_type", kind)
