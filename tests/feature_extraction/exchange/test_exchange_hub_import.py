"""Importing Parquet shards from the Hub: the same features as local ones, whatever happens."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from kill_at_call import in_child, kill_at_call
from loopback_hub import LoopbackHub
from parquet_shards import CHANNELS, TOKENS, grids, nested, shard

from eval.errors import InputError
from feature_extraction.errors import StoreError
from feature_extraction.exchange.importing import import_features
from feature_extraction.store import resumable_writer
from feature_extraction.store.store import FeatureStore

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)

NAME, ADDRESS = "someone/features", "hf://datasets/someone/features"
VALUES = grids(12)
IDS = [f"image{number}" for number in range(12)]
FILES = {
    f"data/train-{part:05d}-of-00003.parquet": shard(
        IDS[4 * part : 4 * part + 4], nested(VALUES[4 * part : 4 * part + 4])
    )
    for part in range(3)
}


def publish(hub: LoopbackHub, files: dict[str, bytes] = FILES) -> str:
    return hub.add(NAME, {"README.md": b"# Features", **files}, kind="datasets")


def num_requests(hub: LoopbackHub) -> int:
    """Number of requests for parts of shards; these are so small that one gets all of it."""
    return hub.count("GET", r"/resolve/.*\.parquet")


def test_all_shards_with_the_commit_they_are_from(hub: LoopbackHub, tmp_path: Path) -> None:
    commit = publish(hub)
    result = import_features(ADDRESS, tmp_path / "x.h5", encoder="RN101")
    store = FeatureStore(tmp_path / "x.h5")
    assert (result.imported, result.failures, list(store)) == (12, {}, IDS)
    assert np.array_equal(store.read(IDS), VALUES)
    assert store.spec.encoder == "RN101"
    assert store.source is not None
    assert (store.source.repository, store.source.revision) == (NAME, commit)
    assert (store.source.files, store.source.file_bytes) == (3, sum(map(len, FILES.values())))
    assert num_requests(hub) == 3 + 3  # the names of all, then their features
    assert [path.name for path in tmp_path.iterdir() if path.suffix] == ["x.h5"]


def test_one_shard_at_a_time_is_on_the_disk(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feature_extraction.exchange.importing.BATCH_BYTES", 2 * TOKENS * CHANNELS)
    publish(hub)
    seen = []

    def look(done: int, total: int, note: str = "") -> None:
        seen.append([path.name[:11] for path in tmp_path.rglob("*.parquet")])

    import_features(ADDRESS, tmp_path / "x.h5", on_progress=look)
    assert seen == [[f"train-0000{number // 4}"] for number in range(12)]


@pytest.mark.parametrize(
    ("address", "ids"),
    [
        (f"{ADDRESS}/data/train-00001-of-00003.parquet", IDS[4:8]),
        (f"{ADDRESS}@old/more", ["p"]),
        (f"{ADDRESS}/more@old", ["p"]),
    ],
)
def test_a_part_of_a_dataset(
    hub: LoopbackHub, tmp_path: Path, address: str, ids: list[str]
) -> None:
    hub.add(NAME, {"more/x.parquet": shard("p", nested(VALUES[:1]))}, kind="datasets", branch="old")
    publish(hub)
    import_features(address, tmp_path / "x.h5")
    assert list(FeatureStore(tmp_path / "x.h5")) == ids


def test_killed_at_any_step_and_resumed_from_the_same_commit(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is the same byte for byte, also if the branch has changed in the meantime."""
    monkeypatch.setattr("feature_extraction.exchange.importing.BATCH_BYTES", 2 * TOKENS * CHANNELS)
    monkeypatch.setattr(resumable_writer, "SECONDS_BETWEEN_COMMITS", 0.0)
    for number in (15, 35, 55):
        out = tmp_path / f"{number}" / "x.h5"

        def work(number: int = number, out: Path = out) -> None:
            counted = kill_at_call(number, before=False)
            for name in ("pwrite", "fsync", "unlink", "replace"):
                setattr(os, name, counted(getattr(os, name)))
            import_features(ADDRESS, out)

        before = publish(hub)
        assert in_child(work) == -9
        assert not out.exists()
        hub.add(NAME, {"data/other.parquet": shard("z", nested(VALUES[:1]))}, kind="datasets")
        import_features(ADDRESS, out)
        source = FeatureStore(out).source
        assert source is not None
        assert source.revision == before
        assert FeatureStore(out).read(IDS).tobytes() == VALUES.tobytes()
        assert [path.name for path in out.parent.iterdir()] == ["x.h5"]
        publish(hub)


def test_the_file_is_the_same_after_an_interruption(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feature_extraction.exchange.importing.BATCH_BYTES", 2 * TOKENS * CHANNELS)
    publish(hub)
    import_features(ADDRESS, tmp_path / "whole.h5")

    def interrupt(done: int, total: int, note: str = "") -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_features(ADDRESS, tmp_path / "x.h5", on_progress=interrupt)
    before = num_requests(hub)
    assert import_features(ADDRESS, tmp_path / "x.h5").imported == 6
    # Of the features, only those of the third shard: the second is still there.
    assert num_requests(hub) - before == 3 + 1
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_connections_that_drop(hub: LoopbackHub, tmp_path: Path) -> None:
    """While names are read and while a shard is downloaded: the library requests the rest."""
    rng = np.random.default_rng(0)
    large = rng.integers(0, 2**14, (64, TOKENS, 1000), np.uint16).view(np.float16)
    kind = pa.list_(pa.list_(pa.float16(), 1000), TOKENS)
    data = shard(list(range(64)), nested(large), kind)
    publish(hub, {"x.parquet": data})
    hub.drop_next("GET", "/large-files/", after_bytes=100)
    import_features(ADDRESS, tmp_path / "x.h5")
    hub.drop_next("GET", "/large-files/", after_bytes=100_000)
    import_features(f"{ADDRESS}/x.parquet", tmp_path / "y.h5")
    for name in ("x.h5", "y.h5"):
        store = FeatureStore(tmp_path / name)
        assert store.read(list(store)).tobytes() == large.tobytes()


def test_failures_name_the_shard_and_are_final(hub: LoopbackHub, tmp_path: Path) -> None:
    rows: list[object] = [*nested(VALUES[:3]), None]
    publish(hub, {"x.parquet": shard("abcd", rows)})
    result = import_features(ADDRESS, tmp_path / "x.h5")
    assert result.failures == {"d": "row 3 of x.parquet: it is null, or has a null list"}
    before = num_requests(hub)
    assert import_features(ADDRESS, tmp_path / "x.h5").failures == result.failures
    assert num_requests(hub) - before == 1


def test_content_that_is_not_what_the_hub_announced(hub: LoopbackHub, tmp_path: Path) -> None:
    publish(hub)
    first = next(iter(FILES.values()))
    (key,) = (key for key, data in hub.large_files.items() if data == first)
    hub.large_files[key] = first[:150] + bytes([first[150] ^ 1]) + first[151:]
    with pytest.raises(StoreError, match=r"train-00000-of-00003.parquet.*not downloaded correctly"):
        import_features(ADDRESS, tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://datasets/someone/nothing", "the Hub has no repository someone/nothing"),
        ("hf://datasets/another/private", "the Hub has no repository another/private"),
        (
            "hf://datasets/another/gated",
            "is gated: open http.*/datasets/another/gated,",
        ),
        (f"{ADDRESS}@gone", "has no revision 'gone'"),
        (f"{ADDRESS}/nowhere", "there is no file 'nowhere' in the dataset someone/features"),
        ("hf://datasets/someone/stores", "vl-lst features pull someone/stores"),
        ("hf://datasets/someone/mixed", r"hf://datasets/someone/mixed@\w+/b.parquet: its schema"),
        ("hf://datasets/someone/texts", "none of the 1 Parquet files"),
        ("hf://someone/features", "expected hf://datasets/OWNER/NAME"),
        ("hf://datasets/features", "is not the address of a dataset"),
        ("hf://datasets/-a/b", "is not the address of a dataset"),
        ("hf://datasets/a/.b", "is not the address of a dataset"),
        (f"{ADDRESS}@a/data@b", "is not the address of a dataset"),
    ],
)
def test_refused_before_anything_is_written(
    hub: LoopbackHub, tmp_path: Path, address: str, message: str
) -> None:
    publish(hub)
    hub.add("another/private", FILES, kind="datasets", private=True)
    hub.add("another/gated", FILES, kind="datasets", gated=True)
    hub.add("someone/stores", {"x.h5": b"\x89HDF\0"}, kind="datasets")
    mixed = {"a.parquet": shard("ab", nested(VALUES[:2]))}
    mixed["b.parquet"] = shard("c", [[1.0, 2.0]], pa.list_(pa.float32()))
    hub.add("someone/mixed", mixed, kind="datasets")
    texts = shard("ab", nested(VALUES[:2])).replace(b"features", b"captions")
    hub.add("someone/texts", {"x.parquet": texts}, kind="datasets")
    with pytest.raises((StoreError, InputError), match=message):
        import_features(address, tmp_path / "out" / "x.h5")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_not_an_output(hub: LoopbackHub, tmp_path: Path) -> None:
    publish(hub)
    with pytest.raises(StoreError, match="is a folder, expected a file to write"):
        import_features(ADDRESS, tmp_path)


def test_another_revision_is_not_mixed_in(hub: LoopbackHub, tmp_path: Path) -> None:
    first = publish(hub)
    import_features(ADDRESS, tmp_path / "x.h5")
    second = publish(hub, {**FILES, "new.txt": b"new"})
    assert import_features(ADDRESS, tmp_path / "x.h5").imported == 0
    with pytest.raises(
        StoreError, match=f"source: found {NAME} at {first[:12]}, expected {NAME} at {second[:12]}"
    ):
        import_features(f"{ADDRESS}@main", tmp_path / "x.h5")
