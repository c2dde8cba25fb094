"""Write features as Parquet, in the layout in which features are published on the Hub.

Columns: `id`, `height`, `width`, `features` (fixed-size lists of fixed-size lists of float16). The
small ones are next to each other, so that one request gets them from the Hub. The settings of the
features are in the metadata of the schema, so that an import restores them.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from feature_extraction.exchange.foreign.feature_file import FEATURES
from feature_extraction.exchange.foreign.parquet_columns import HEIGHT, SPEC_KEY, WIDTH
from feature_extraction.store.disk import sync_path
from feature_extraction.store.reader import FeatureReader

if TYPE_CHECKING:
    import pyarrow

__all__ = ["IMAGES_PER_FILE", "write_parquet"]

IMAGES_PER_FILE = 4096
# Readers hold a row group in memory.
ROW_GROUP_BYTES = 2**26


def write_parquet(path: Path, store: FeatureReader, image_ids: Sequence[str]) -> None:
    """Write the features of some images to a file, which appears when it is complete.

    Args:
        path: The file.
        store: The features.
        image_ids: The images, in order.
    """
    from pyarrow.parquet import ParquetWriter

    schema = _schema(store)
    step = max(1, ROW_GROUP_BYTES // (2 * store.tokens * store.channels))
    temporary = path.with_name(f"{path.name}.unfinished")
    # Nearly all of the 65,536 values of float16 occur, so a dictionary makes the file larger.
    with ParquetWriter(temporary, schema, compression="zstd", use_dictionary=False) as writer:
        for start in range(0, len(image_ids), step):
            writer.write_batch(_batch(store, image_ids[start : start + step], schema))
    sync_path(temporary)
    os.replace(temporary, path)


def _schema(store: FeatureReader) -> "pyarrow.Schema":
    import pyarrow

    channels = pyarrow.list_(pyarrow.float16(), store.channels)
    return pyarrow.schema(
        {
            "id": pyarrow.string(),
            HEIGHT: pyarrow.int32(),
            WIDTH: pyarrow.int32(),
            FEATURES: pyarrow.list_(channels, store.tokens),
        },
        metadata={SPEC_KEY: store.spec.to_json()},
    )


def _batch(
    store: FeatureReader, image_ids: Sequence[str], schema: "pyarrow.Schema"
) -> "pyarrow.RecordBatch":
    import pyarrow

    values = pyarrow.array(store.read(image_ids).reshape(-1))
    channels = pyarrow.FixedSizeListArray.from_arrays(values, store.channels)
    sizes = [store.image_size(image_id) for image_id in image_ids]
    columns = [
        pyarrow.array(image_ids, pyarrow.string()),
        # Imported features may have no image sizes.
        pyarrow.array([height or None for height, _ in sizes], pyarrow.int32()),
        pyarrow.array([width or None for _, width in sizes], pyarrow.int32()),
        pyarrow.FixedSizeListArray.from_arrays(channels, store.tokens),
    ]
    columns = [column.cast(field.type) for column, field in zip(columns, schema, strict=True)]
    return pyarrow.record_batch(columns, schema=schema)
