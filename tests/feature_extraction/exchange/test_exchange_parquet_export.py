"""Parquet exports: the layout in which features are published, and back without loss."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from plain_stores import SPEC, write_store

from feature_extraction.exchange import exporting, parquet_export
from feature_extraction.exchange.exporting import export_features
from feature_extraction.exchange.importing import import_features
from feature_extraction.store.store import FeatureStore

IDS = ["a", "b", "bad", "c", "d", "e"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """A store whose export has three files."""
    monkeypatch.setattr(exporting, "IMAGES_PER_FILE", 2)
    return FeatureStore(write_store(tmp_path / "x.h5", IDS))


def test_an_import_restores_features_sizes_and_settings(
    store: FeatureStore, tmp_path: Path
) -> None:
    export_features(store, tmp_path / "out", "parquet")
    import_features(tmp_path / "out", tmp_path / "y.h5")
    found = FeatureStore(tmp_path / "y.h5")
    assert found.spec == store.spec
    assert list(found) == list(store)
    assert found.read(list(store)).tobytes() == store.read(list(store)).tobytes()
    assert [found.image_size(each) for each in "bcde"] == [store.image_size(i) for i in "bcde"]


def test_the_layout_of_published_features(store: FeatureStore, tmp_path: Path) -> None:
    assert export_features(store, tmp_path / "out", "parquet").files == 3
    names = [f"train-{number:05d}-of-00003.parquet" for number in range(3)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "README.md", "export.json", *names
    ]  # fmt: skip
    opened = pq.ParquetFile(tmp_path / "out" / names[0])
    kind = pa.list_(pa.list_(pa.float16(), SPEC.channels), SPEC.tokens)
    assert opened.schema_arrow.field("id").type == pa.string()
    assert opened.schema_arrow.field("features").type == kind
    assert opened.metadata.row_group(0).column(3).path_in_schema.startswith("features.")
    assert opened.metadata.row_group(0).column(3).compression == "ZSTD"


def test_row_groups_are_small(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers hold a whole row group in memory."""
    monkeypatch.setattr(parquet_export, "ROW_GROUP_BYTES", 2 * SPEC.tokens * SPEC.channels)
    export_features(store, tmp_path / "out", "parquet")
    path = tmp_path / "out" / "train-00000-of-00003.parquet"
    assert pq.ParquetFile(path).metadata.num_row_groups == 2
    import_features(tmp_path / "out", tmp_path / "y.h5")
    assert list(FeatureStore(tmp_path / "y.h5")) == list(store)


def test_complete_files_are_kept_after_an_interruption(store: FeatureStore, tmp_path: Path) -> None:
    export_features(store, tmp_path / "whole", "parquet")

    def interrupt(done: int, total: int, note: str = "") -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_features(store, tmp_path / "out", "parquet", on_progress=interrupt)
    assert not (tmp_path / "out").exists()
    assert export_features(store, tmp_path / "out", "parquet").written == 1
    assert export_features(store, tmp_path / "out", "parquet").written == 0
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert not (tmp_path / "out.partial").exists()


def test_files_of_other_features_are_not_kept(store: FeatureStore, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_features(store, tmp_path / "out", "parquet", on_progress=interrupt)
    other = FeatureStore(write_store(tmp_path / "other.h5", ["u", "v"], seed=1))
    assert export_features(other, tmp_path / "out", "parquet").written == 2
    import_features(tmp_path / "out", tmp_path / "y.h5")
    assert list(FeatureStore(tmp_path / "y.h5")) == ["u", "v"]


def test_the_card_names_the_files_and_quotes_names(tmp_path: Path) -> None:
    import dataclasses

    spec = dataclasses.replace(SPEC, encoder="a`|\n---\nlicense: mit")
    store = FeatureStore(write_store(tmp_path / "x.h5", IDS, spec))
    export_features(store, tmp_path / "out", "parquet")
    card = (tmp_path / "out" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "unknown"
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "train-*.parquet"}]
    assert "| encoder | `a???---?license: mit` |" in card
    assert "1 images have no features" in card
