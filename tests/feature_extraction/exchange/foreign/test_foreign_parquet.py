"""Parquet shards: rows that cannot be used are named, other schemas refused, memory bounded."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from parquet_shards import CHANNELS, KIND, TOKENS, grids, nested, shard
from plain_stores import SPEC

from feature_extraction.errors import StoreError
from feature_extraction.exchange.foreign import tables
from feature_extraction.exchange.foreign.parquet_columns import SPEC_KEY
from feature_extraction.exchange.importing import import_features
from feature_extraction.store.store import FeatureStore

IDS = ["a", "b", "c", "d", "e"]
VARIABLE = pa.list_(pa.list_(pa.float32()))
VALUES = grids(5)


def write(folder: Path, *shards: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for number, data in enumerate(shards):
        (folder / f"train-{number:05d}-of-{len(shards):05d}.parquet").write_bytes(data)
    return folder


def assert_failed(source: Path, reasons: dict[str, str]) -> None:
    """Import a source of `VALUES`, in which these images and no others must fail."""
    out = source.parent / "out.h5"
    result = import_features(source, out)
    assert set(result.failures) == set(reasons)
    for image_id, reason in reasons.items():
        assert reason in result.failures[image_id]
    store = FeatureStore(out)
    for image_id, values in zip(IDS, VALUES, strict=True):
        assert image_id in reasons or np.array_equal(store[image_id], values)


class TestRowsThatCannotBeUsed:
    """They fail alone, with the row and the reason, whatever else is in their batch."""

    def test_of_fixed_size(self, tmp_path: Path) -> None:
        rows: list[object] = nested(VALUES)
        rows[0] = None
        rows[2] = list(np.full((TOKENS, CHANNELS), np.inf, np.float16))
        rows[3] = [None, *nested(VALUES)[3][1:]]
        data = shard(IDS, rows, rows_per_group=5)
        assert_failed(
            write(tmp_path / "s", data),
            {
                "a": "row 0 of train-00000-of-00001.parquet: it is null",
                "c": "not finite",
                "d": "row 3 of train-00000-of-00001.parquet: it is null, or has a null list",
            },
        )

    def test_of_variable_size(self, tmp_path: Path) -> None:
        rows: list[object] = nested(VALUES.astype(np.float32))
        rows[0] = nested(VALUES.astype(np.float32))[0][:3]
        rows[3] = [[1.0, 2.0], *nested(VALUES)[3][1:]]
        rows[4] = [[None, *[1.0] * (CHANNELS - 1)], *nested(VALUES)[4][1:]]
        data = shard(IDS, rows, VARIABLE, rows_per_group=5)
        assert_failed(
            write(tmp_path / "s", data),
            {
                "a": "a list of 3, expected 4",
                "d": "a list of 2, expected 6",
                "e": "one of its values is null",
            },
        )

    def test_damage_ends_with_its_row_group(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Blocks that do not end where row groups end.
        monkeypatch.setattr(tables, "BLOCK_BYTES", 3 * 4 * TOKENS * CHANNELS)
        source = write(tmp_path / "s", shard(IDS, nested(VALUES)))
        path = next(source.iterdir())
        column = pq.ParquetFile(path).metadata.row_group(0).column(1)
        data = bytearray(path.read_bytes())
        start = column.dictionary_page_offset or column.data_page_offset
        data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
        path.write_bytes(data)
        assert_failed(source, dict.fromkeys(["a", "b"], "is damaged or truncated"))


class TestSchemasThatDiffer:
    """Nothing is written if a later shard differs from the first."""

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            (shard(IDS, nested(VALUES[:, :3]), pa.list_(KIND.value_type, 3)), "shape [3, 6]"),
            (shard(IDS, nested(VALUES), VARIABLE), "list<element: list<element: float"),
            (shard(IDS, nested(VALUES.reshape(5, -1)), pa.list_(pa.float16(), 24)), "shape [24]"),
            (shard(IDS, [[1, 2]] * 5, pa.list_(pa.int64())), "of floating point"),
            (
                shard(IDS, nested(VALUES), metadata={SPEC_KEY: b"{}"}),
                "settings of the features are damaged",
            ),
        ],
    )
    def test_refused(self, tmp_path: Path, second: bytes, message: str) -> None:
        source = write(tmp_path / "s", shard("vwxyz", nested(VALUES)), second)
        with pytest.raises(StoreError) as caught:
            import_features(source, tmp_path / "out" / "x.h5")
        assert "train-00001-of-00002.parquet" in str(caught.value)
        assert message in str(caught.value)
        assert not (tmp_path / "out").exists()

    def test_an_image_in_two_shards(self, tmp_path: Path) -> None:
        data = shard(IDS, nested(VALUES))
        with pytest.raises(StoreError, match=r"have the image id 'a'.*00000.*row 0 and .*00001"):
            import_features(write(tmp_path / "s", data, data), tmp_path / "x.h5")

    def test_more_values_than_rows_can_have(self, tmp_path: Path) -> None:
        """A few bytes of equal values expand to any size."""
        rows = [[[1.0, 2.0]]] * 9 + [[[0.0] * 1_000_000]]
        data = shard(list(range(10)), rows, VARIABLE, rows_per_group=10)
        assert len(data) < 10_000
        with pytest.raises(StoreError, match="declares 1,000,018 values of features in 10 rows"):
            import_features(write(tmp_path / "s", data), tmp_path / "x.h5")


def test_flat_lists_get_the_shape_that_the_files_state(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(3, SPEC.tokens, SPEC.channels))
    flat = list(values.reshape(3, -1).astype(np.float16))
    kind = pa.list_(pa.float16(), SPEC.tokens * SPEC.channels)
    data = shard([7, 8, 9], flat, kind, metadata={SPEC_KEY: SPEC.to_json().encode()})
    import_features(write(tmp_path / "s", data), tmp_path / "x.h5", encoder=SPEC.encoder)
    store = FeatureStore(tmp_path / "x.h5")
    assert store.spec == SPEC
    assert np.array_equal(store.read(["7", "8", "9"]), values.astype(np.float16))
    with pytest.raises(StoreError, match="state the encoder tiny, but RN50 was given"):
        import_features(tmp_path / "s", tmp_path / "y.h5", encoder="RN50")


def test_one_batch_of_a_large_row_group_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BLOCK_BYTES", 2**19)
    monkeypatch.setattr("feature_extraction.exchange.importing.BATCH_BYTES", 2**20)
    values = np.random.default_rng(0).integers(0, 2**14, (128, 8, 4096), np.uint16)
    kind = pa.list_(pa.list_(pa.float16(), 4096), 8)
    path = tmp_path / "x.parquet"
    rows = nested(values.view(np.float16))
    path.write_bytes(shard(list(range(128)), rows, kind, rows_per_group=128))
    assert path.stat().st_size > 6 * 2**20
    before = pa.total_allocated_bytes()
    held: list[int] = []
    import_features(
        path,
        tmp_path / "x.h5",
        on_progress=lambda *_: held.append(pa.total_allocated_bytes() - before),
    )
    assert len(held) > 2
    assert max(held) < 4 * 2**20
