"""Shards of one small extraction, and a check of what they contain when read as one."""

from pathlib import Path

import numpy as np
from plain_stores import SPEC, features_of

from feature_extraction.spec import FeatureSpec
from feature_extraction.store import open_features
from feature_extraction.store.shards import ShardRecord, image_list_sha256
from feature_extraction.store.writer import Batch, StoreWriter

__all__ = ["FEATURES", "IDS", "assert_reads_as_one", "write", "write_shards"]

IDS = [f"image{number}" for number in range(7)]
FEATURES = features_of(7)
FEATURES[3] = 0  # image3 failed


def write(
    path: Path, rows: range, shard: tuple[int, int] | None = None, spec: FeatureSpec = SPEC
) -> Path:
    """Write the images of `rows`, optionally as shard `(number, count)` of all images."""
    record = None
    if shard is not None:
        record = ShardRecord(
            number=shard[0],
            count=shard[1],
            start=rows.start,
            images=len(IDS),
            image_ids_sha256=image_list_sha256(IDS),
        )
    with StoreWriter(path, spec, [IDS[row] for row in rows], record) as writer:
        batch = Batch(
            start=0,
            features=FEATURES[rows.start : rows.stop],
            image_size=np.array([(0, 0) if row == 3 else (row, row + 1) for row in rows], np.int32),
            reasons=["it is empty" if row == 3 else "" for row in rows],
        )
        writer.write(batch)
        writer.finish()
    return path


def write_shards(folder: Path) -> list[Path]:
    """Write all images as three shards."""
    cuts = [range(0, 2), range(2, 5), range(5, 7)]
    return [
        write(folder / f"val.shard-{number}-of-3.h5", rows, (number, 3))
        for number, rows in enumerate(cuts, 1)
    ]


def assert_reads_as_one(path: Path) -> None:
    reader, done = open_features(path), [row for row in range(7) if row != 3]
    assert list(reader) == [IDS[row] for row in done]
    assert np.array_equal(reader.read([IDS[6], IDS[0], IDS[4]]), FEATURES[[6, 0, 4]])
    assert reader.failures == {"image3": "it is empty"}
    assert reader.image_size("image5") == (5, 6)
    assert reader.spec == SPEC
