"""The columns of Parquet files: lists of numbers per image, and image names."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_extraction.errors import StoreError
from feature_extraction.exchange.foreign.feature_file import (
    FEATURES,
    ID_NAMES,
    UNKNOWN_SIZE,
    find_features_name,
    refusal,
)
from feature_extraction.spec import FeatureSpec
from feature_extraction.store.layout import MAX_VALUES_PER_IMAGE

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

__all__ = [
    "HEIGHT",
    "SPEC_KEY",
    "WIDTH",
    "ParquetColumns",
    "check_same_columns",
    "examine_columns",
    "find_features_column",
    "find_group",
    "open_parquet",
    "read_columns",
    "read_names",
]

# The first two are from the metadata of clip-retrieval.
METADATA_NAMES = ("image_path", "key", *ID_NAMES)
# Key of the spec in the metadata of the schema, in files that this package exports.
SPEC_KEY = b"vl_lst_feature_spec"
HEIGHT, WIDTH = "height", "width"
# Without a buffer, pyarrow reads all compressed bytes of a row group at once.
BUFFER_BYTES = 2**20
NUM_SHAPE_SAMPLES = 9
# A row group with more values than this per expected value is not read.
MAX_EXCESS_VALUES = 4


@dataclass(frozen=True, slots=True)
class ParquetColumns:
    """The columns of a file, and the names and image sizes in them.

    Args:
        path: The file.
        group_rows: Number of rows of each row group.
        kind: Type of the column of features.
        stored_shape: Lengths of the lists of one image, outermost first.
        features_name: Name of the column of features.
        names_name: Name of the column of image names.
        names: Name of each row.
        image_sizes: Height and width of each photograph; `None` if the file does not have them.
        spec: Settings of the features, if the file states them.
    """

    path: Path
    group_rows: tuple[int, ...]
    kind: str
    stored_shape: tuple[int, ...]
    features_name: str
    names_name: str
    names: list[str]
    image_sizes: list[tuple[int, int]] | None
    spec: FeatureSpec | None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(self.group_rows)

    def group_end(self, row: int) -> int:
        """Return the row after the row group that holds a row."""
        group, first = find_group(self.group_rows, row)
        return first + self.group_rows[group]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one image's features: `[tokens, channels]` or `[channels]`."""
        if self.spec is None:
            return self.stored_shape
        return self.spec.tokens, self.spec.channels


def find_features_column(path: Path) -> str | None:
    """Return the name of the column that may hold features; `None` if there is none."""
    import pyarrow.parquet

    return find_features_name(pyarrow.parquet.read_schema(path).names)


def open_parquet(source: Any) -> "ParquetFile":
    """Open a file so that only the parts that are read are in memory.

    Args:
        source: Path, or binary file that can seek.
    """
    from pyarrow.parquet import ParquetFile

    return ParquetFile(source, pre_buffer=False, buffer_size=BUFFER_BYTES)


def read_columns(path: Path) -> ParquetColumns:
    """Examine the columns of a file; see `examine_columns`."""
    with open_parquet(path) as opened:
        return examine_columns(path, opened)


def examine_columns(path: Path, opened: "ParquetFile") -> ParquetColumns:
    """Examine the columns of an open file. Of lists without a fixed size, a few rows are read.

    Args:
        path: Path of the file, for messages and for reading it later.
        opened: The file.

    Raises:
        StoreError: There is no column of features or of names, its type is wrong, or a row group
            has more values than its rows can have.
    """
    schema = opened.schema_arrow
    features = find_features_name(schema.names)
    names = next((name for name in ID_NAMES if name in schema.names), None)
    if features is None or names is None:
        raise refusal(
            path,
            f"it has the columns {', '.join(schema.names[:8])}; expected {FEATURES} and "
            f"one of {', '.join(ID_NAMES[:4])}",
        )
    kind = schema.field(features).type
    shape = _fixed_shape(path, features, kind) or _usual_shape(path, features, opened)
    if not 1 <= math.prod(shape) <= MAX_VALUES_PER_IMAGE:
        raise refusal(path, f"an image in the column {features} has the shape {list(shape)}")
    _check_values(path, opened, features, math.prod(shape))
    metadata = opened.metadata
    return ParquetColumns(
        path=path,
        group_rows=tuple(metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)),
        kind=str(kind),
        stored_shape=shape,
        features_name=features,
        names_name=names,
        names=_read_name_column(path, opened, names),
        image_sizes=_read_image_sizes(opened),
        spec=_read_spec(path, schema.metadata, shape),
    )


def check_same_columns(first: ParquetColumns, other: ParquetColumns) -> None:
    """Refuse a shard whose schema differs from that of the first.

    Raises:
        StoreError: The columns, their types or the settings of the features differ.
    """
    found, expected = _describe(other), _describe(first)
    if found == expected and other.spec is not None and first.spec is not None:
        found, expected = other.spec.to_json(), first.spec.to_json()
    if found != expected:
        raise refusal(
            other.path, f"its schema differs from {first.path.name}: {found}, expected {expected}"
        )


def read_names(path: Path) -> list[str]:
    """Read image names from a metadata file.

    Raises:
        StoreError: There is no column of names, or its values are neither strings nor integers.
    """
    with open_parquet(path) as opened:
        columns = opened.schema_arrow.names
        name = next((name for name in METADATA_NAMES if name in columns), None)
        if name is None:
            raise refusal(
                path,
                f"it has the columns {', '.join(columns[:8])}; expected one with image names, "
                f"such as {', '.join(METADATA_NAMES[:2])}",
            )
        return _read_name_column(path, opened, name)


def _describe(columns: ParquetColumns) -> str:
    settings = "" if columns.spec is None else ", with settings"
    return (
        f"names in {columns.names_name!r}, features in {columns.features_name!r} of the type "
        f"{columns.kind} and the shape {list(columns.row_shape)}{settings}"
    )


def _read_name_column(path: Path, opened: "ParquetFile", name: str) -> list[str]:
    values = opened.read(columns=[name]).column(name).to_pylist()
    for row, value in enumerate(values):
        if type(value) not in (str, int):
            raise refusal(
                path, f"row {row:,} of the column {name} is {value!r:.60}, expected a string"
            )
    return [str(value) for value in values]


def _read_image_sizes(opened: "ParquetFile") -> list[tuple[int, int]] | None:
    import pyarrow

    schema = opened.schema_arrow
    if not all(
        name in schema.names and pyarrow.types.is_integer(schema.field(name).type)
        for name in (HEIGHT, WIDTH)
    ):
        return None
    columns = opened.read(columns=[HEIGHT, WIDTH])
    return [
        (height, width) if height and width and 0 < min(height, width) < 2**31 else UNKNOWN_SIZE
        for height, width in zip(
            columns.column(HEIGHT).to_pylist(), columns.column(WIDTH).to_pylist(), strict=True
        )
    ]


def _read_spec(
    path: Path, metadata: dict[bytes, bytes] | None, shape: tuple[int, ...]
) -> FeatureSpec | None:
    text = (metadata or {}).get(SPEC_KEY)
    if text is None:
        return None
    try:
        spec = FeatureSpec.from_json(text.decode())
    except (UnicodeDecodeError, StoreError) as error:
        raise refusal(path, f"its settings of the features are damaged: {error}") from None
    expected = (spec.tokens, spec.channels)
    if shape not in (expected, (math.prod(expected),)):
        raise refusal(
            path, f"its features have the shape {list(shape)}, but its settings {list(expected)}"
        )
    return spec


def _fixed_shape(path: Path, features: str, kind: Any) -> tuple[int, ...] | None:
    """Return the lengths of the lists if their type states them.

    Raises:
        StoreError: They are not lists, or lists of lists, of floating point.
    """
    import pyarrow

    lengths: list[int | None] = []
    value: Any = _storage_type(kind)
    while True:
        if pyarrow.types.is_fixed_size_list(value):
            lengths.append(value.list_size)
        elif pyarrow.types.is_list(value) or pyarrow.types.is_large_list(value):
            lengths.append(None)
        else:
            break
        value = _storage_type(value.value_type)
    if len(lengths) not in (1, 2) or not pyarrow.types.is_floating(value):
        raise refusal(
            path,
            f"the column {features} is {kind}, expected lists, or lists of lists, of floating "
            "point",
        )
    fixed = [length for length in lengths if length is not None]
    return tuple(fixed) if len(fixed) == len(lengths) else None


def _usual_shape(path: Path, features: str, opened: "ParquetFile") -> tuple[int, ...]:
    """Return the most frequent shape of the first rows; any one row may be an exception."""
    shapes: Counter[tuple[int, ...]] = Counter()
    for batch in opened.iter_batches(batch_size=NUM_SHAPE_SAMPLES, columns=[features]):
        column = getattr(batch.column(0), "storage", batch.column(0))
        shapes.update(_shape(row.values) for row in column if row.is_valid)
        if shapes:
            return shapes.most_common(1)[0][0]
    raise refusal(path, f"no row has {features}")


def _shape(values: "pyarrow.Array") -> tuple[int, ...]:
    """Return the lengths of nested lists, of the first element at each level."""
    values = getattr(values, "storage", values)
    if hasattr(values, "flatten") and hasattr(values.type, "value_type") and len(values):
        return len(values), *_shape(values[0].values if values[0].is_valid else values[:0])
    return (len(values),)


def _check_values(path: Path, opened: "ParquetFile", features: str, size: int) -> None:
    """Refuse a row group that declares far more values than its rows can have.

    A few bytes can expand to any number of equal values.
    """
    metadata = opened.metadata
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema.partition(".")[0] != features:
                continue
            if column.num_values > MAX_EXCESS_VALUES * size * group.num_rows:
                raise refusal(
                    path,
                    f"row group {number:,} declares {column.num_values:,} values of {features} in "
                    f"{group.num_rows:,} rows, expected {size:,} per row",
                )


def _storage_type(kind: Any) -> Any:
    return getattr(kind, "storage_type", kind)


def find_group(group_rows: Sequence[int], row: int) -> tuple[int, int]:
    """Return the row group that holds a row, and the first row of the group.

    Args:
        group_rows: Number of rows of each row group.
        row: The row.

    Raises:
        EOFError: There are fewer rows.
    """
    first = 0
    for group, rows in enumerate(group_rows):
        if row < first + rows:
            return group, first
        first += rows
    raise EOFError("it has fewer rows than it declares")
