"""Features in Parquet files: decode a column of lists of numbers, a few rows at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_extraction.exchange.foreign.parquet_columns import (
    ParquetColumns,
    find_group,
    open_parquet,
)

if TYPE_CHECKING:
    import pyarrow

__all__ = ["ParquetColumn"]


class ParquetColumn:
    """A column of features that is read sequentially, a few rows at a time.

    Args:
        columns: The file.
        start: The first row that will be read; earlier row groups are skipped.
        batch_rows: Number of rows to decode at a time.
    """

    def __init__(self, columns: ParquetColumns, start: int, batch_rows: int) -> None:
        group, self.position = find_group(columns.group_rows, start)
        self._columns = columns
        self._batches = _batches(
            columns.path,
            columns.features_name,
            batch_rows,
            range(group, len(columns.group_rows)),
        )
        self._values: NDArray[Any] = np.zeros((0, *columns.row_shape))
        self._reasons: Sequence[str] = ()

    def read(self, start: int, stop: int) -> tuple[NDArray[Any], list[str]]:
        """Return the rows `start` to `stop`; `start` must not be before `position`.

        Returns:
            Values `[rows, *row_shape]`, zeros for rows that cannot be used; and the reason for each
            of these, empty for the others.

        Raises:
            EOFError: There are fewer rows.
        """
        kept: list[NDArray[Any]] = []
        reasons: list[str] = []
        while self.position < stop:
            if not len(self._values):
                self._decode_next()
            count = min(
                len(self._values), (start if self.position < start else stop) - self.position
            )
            if self.position >= start:
                kept.append(self._values[:count])
                reasons += self._reasons[:count]
            self._values, self._reasons = self._values[count:], self._reasons[count:]
            self.position += count
        return np.concatenate(kept), reasons

    def _decode_next(self) -> None:
        column = next(self._batches, None)
        if column is None:
            raise EOFError("it has fewer rows than it declares")
        stored, shape = self._columns.stored_shape, self._columns.row_shape
        try:
            self._values = _decode(column, stored).reshape(-1, *shape)
            self._reasons = [""] * len(column)
        except ValueError:
            # Rare, so decode row by row to find the rows that cannot be used.
            rows, reasons = [], []
            for row in range(len(column)):
                values, reason = np.zeros((1, *stored)), ""
                try:
                    values = _decode(column[row : row + 1], stored)
                except ValueError as error:
                    reason = str(error)
                rows.append(values.reshape(1, *shape))
                reasons.append(reason)
            self._values, self._reasons = np.concatenate(rows), reasons


def _batches(path: Path, name: str, rows: int, groups: Sequence[int]) -> "Iterator[pyarrow.Array]":
    with open_parquet(path) as opened:
        for batch in opened.iter_batches(batch_size=rows, row_groups=list(groups), columns=[name]):
            yield batch.column(0)


def _decode(column: "pyarrow.Array", shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the values of whole rows, `[rows, *shape]`.

    Raises:
        ValueError: A row is null, has another length or a gap.
    """
    import pyarrow.compute

    values: Any = column
    for length in shape:
        values = getattr(values, "storage", values)
        if values.null_count:
            raise ValueError("it is null, or has a null list")
        lengths = pyarrow.compute.list_value_length(values).to_numpy(zero_copy_only=False)
        if (wrong := lengths[lengths != length]).size:
            raise ValueError(f"it has a list of {wrong[0]:,}, expected {length:,}")
        values = values.flatten()
    if values.null_count:
        raise ValueError("one of its values is null")
    numbers: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return numbers.reshape(-1, *shape)
