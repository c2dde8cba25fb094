"""What was found in a source, and the rows of Parquet files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from feature_extraction.exchange.foreign.feature_file import FeatureFile, explain_damage
from feature_extraction.exchange.foreign.parquet_columns import (
    ParquetColumns,
    check_same_columns,
    read_columns,
)
from feature_extraction.names import image_id_of
from feature_extraction.spec import FeatureSpec
from feature_extraction.store.disk import require_regular_file
from feature_extraction.store.source import Source

__all__ = ["FoundFeatures", "find_parquet_rows", "read_shard"]


@dataclass(frozen=True, slots=True)
class FoundFeatures:
    """Images with features, and counts of the files that were left out.

    Args:
        files: Location of each image's features, sorted by id or in row order.
        left_out: Number by suffix of files that may hold features but are not read.
        row_shape: Shape of each image's features, if the files state it.
        spec: Settings of the features, if the files state them.
        prepare: Called before an image is read, in order; makes its file available.
        source: Where the files are downloaded from; `None` if they are local.
    """

    files: list[FeatureFile]
    left_out: Mapping[str, int]
    row_shape: tuple[int, ...] | None = None
    spec: FeatureSpec | None = None
    prepare: Callable[[FeatureFile], None] | None = None
    source: Source | None = None


def read_shard(path: Path) -> ParquetColumns:
    """Examine a Parquet file.

    Raises:
        StoreError: It is damaged, or its columns are wrong.
    """
    require_regular_file(path)
    with explain_damage(path):
        return read_columns(path)


def find_parquet_rows(
    shards: Sequence[ParquetColumns], left_out: Mapping[str, int]
) -> FoundFeatures:
    """Return the location of each row of Parquet files.

    Args:
        shards: The files, in order.
        left_out: See `FoundFeatures`.

    Raises:
        StoreError: Their schemas differ.
    """
    for shard in shards[1:]:
        check_same_columns(shards[0], shard)
    return FoundFeatures(
        [
            FeatureFile(image_id_of(name), shard.path, row=row)
            for shard in shards
            for row, name in enumerate(shard.names)
        ],
        left_out,
        shards[0].row_shape if shards else None,
        shards[0].spec if shards else None,
    )
