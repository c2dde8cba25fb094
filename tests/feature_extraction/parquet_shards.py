"""Parquet shards as features are published on the Hub: fixed-size lists of float16."""

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TOKENS, CHANNELS = 4, 6
KIND = pa.list_(pa.list_(pa.float16(), CHANNELS), TOKENS)


def grids(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, TOKENS, CHANNELS)).astype(np.float16)


def nested(values: np.ndarray) -> list[list[np.ndarray]]:
    """Values as pyarrow takes them: it converts arrays of one dimension only."""
    return [list(grid) for grid in values]


def shard(
    ids: Sequence[object],
    rows: Sequence[object],
    kind: pa.DataType = KIND,
    *,
    rows_per_group: int = 2,
    metadata: dict[bytes, bytes] | None = None,
) -> bytes:
    """The bytes of a shard."""
    table = pa.table({"id": pa.array(ids), "features": pa.array(rows, kind)})
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        row_group_size=rows_per_group,
        compression="zstd",
    )
    return sink.getvalue()
