"""Workers read an index while another process keeps joining it again."""

import multiprocessing
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_stores import features_of, write_store
from torch.utils.data import DataLoader, Dataset

from feature_extraction.exchange.compression import compress_store
from feature_extraction.exchange.join import join_stores
from feature_extraction.store import open_features
from feature_extraction.store.reader import FeatureReader

IDS = [f"image{number}" for number in range(60)]
EXPECTED = np.concatenate([features_of(40), features_of(20, seed=1)])

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 8 worker:UserWarning"),
]


class _Rows(Dataset[torch.Tensor]):
    """Reopens the index from time to time, as newly started programs do."""

    def __init__(self, path: Path, store: FeatureReader) -> None:
        self.path, self.store = path, store

    def __len__(self) -> int:
        return 8 * len(IDS)

    def __getitem__(self, index: int) -> torch.Tensor:
        if index % 10 == 0:
            self.store = open_features(self.path)
        return torch.from_numpy(self.store[IDS[index * 7 % len(IDS)]])


def _join_until_stopped(shards: list[Path], index: Path, stop: object, count: object) -> None:
    while not stop.is_set():  # type: ignore[attr-defined]
        join_stores(shards, index)
        count.value += 1  # type: ignore[attr-defined]
        time.sleep(0.01)


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    one = write_store(tmp_path / "all" / "one.h5", IDS[:40])
    two = write_store(tmp_path / "all" / "deeper" / "two.h5", IDS[40:], seed=1)
    compress_store(two, two)
    return [one, two]


@pytest.fixture
def joining(shards: list[Path]) -> Iterator[Path]:
    index = shards[0].with_name("index.h5")
    join_stores(shards, index)
    context = multiprocessing.get_context("fork")
    stop, count = context.Event(), context.Value("i", 0)
    process = context.Process(target=_join_until_stopped, args=(shards, index, stop, count))
    process.start()
    while not count.value and process.is_alive():
        time.sleep(0.01)
    before = count.value
    yield index
    assert count.value > before
    stop.set()
    process.join()
    assert process.exitcode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("method", "workers"), [("fork", 8), ("spawn", 2)])
def test_workers_read_what_one_reads(joining: Path, method: str, workers: int) -> None:
    rows = _Rows(joining, open_features(joining))
    loader = DataLoader(rows, batch_size=8, num_workers=workers, multiprocessing_context=method)
    found = torch.cat(list(loader)).numpy()
    order = [index * 7 % len(IDS) for index in range(len(rows))]
    assert np.array_equal(found, EXPECTED[order])


def test_the_folder_is_renamed_with_its_files(shards: list[Path], tmp_path: Path) -> None:
    join_stores(shards, tmp_path / "all" / "index.h5")
    opened = open_features(tmp_path / "all" / "index.h5")
    assert np.array_equal(opened["image3"], EXPECTED[3])
    (tmp_path / "all").rename(tmp_path / "other name")
    moved = open_features(tmp_path / "other name" / "index.h5")
    assert np.array_equal(moved.read(IDS), EXPECTED)
    # Open files stay readable.
    assert np.array_equal(opened["image4"], EXPECTED[4])
    shutil.copytree(tmp_path / "other name", tmp_path / "elsewhere" / "deep")
    assert np.array_equal(open_features(tmp_path / "elsewhere/deep/index.h5").read(IDS), EXPECTED)
