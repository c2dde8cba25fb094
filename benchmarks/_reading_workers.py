"""Read features through a `DataLoader` with workers, from a store and from a memory map."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from feature_extraction.store.reader import FeatureReader

# V tokens, C channels

__all__ = ["MapRows", "Rows", "StoreRows", "seconds_of_rounds"]

BATCH = 64


class Rows(Dataset[torch.Tensor], ABC):
    """Dataset of the images of a store, in a given order."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.image(self.rows[index]))

    @abstractmethod
    def image(self, row: int) -> NDArray[np.float16]:
        """Return the features of one image, float16 `[tokens, channels]`."""


class StoreRows(Rows):
    """Reads from a feature store."""

    def __init__(self, rows: Sequence[int], store: FeatureReader) -> None:
        super().__init__(rows)
        self._store = store
        self._ids = list(store)

    def image(self, row: int) -> NDArray[np.float16]:
        """Return the features of one image, float16 `[tokens, channels]`."""
        return self._store[self._ids[row]]


class MapRows(Rows):
    """Reads from a `.npy` file, opened in each process: pickling a memory map copies it."""

    def __init__(self, rows: Sequence[int], path: Path) -> None:
        super().__init__(rows)
        self._path = path
        self._array_NVC: NDArray[np.float16] | None = None

    def image(self, row: int) -> NDArray[np.float16]:
        """Return the features of one image, float16 `[tokens, channels]`."""
        if self._array_NVC is None:
            self._array_NVC = np.load(self._path, mmap_mode="r")
        features_VC: NDArray[np.float16] = np.array(self._array_NVC[row])
        return features_VC


def seconds_of_rounds(
    ways: dict[str, Rows],
    expected_NVC: NDArray[np.float16],
    *,
    workers: int,
    method: str | None,
    rounds: int,
) -> dict[str, list[float]]:
    """Time each way once per round; workers persist between rounds.

    Args:
        ways: Datasets by name.
        expected_NVC: Expected features, checked in a first round that is not timed.
        workers: Number of worker processes; 0 reads in this process.
        method: Start method, `fork` or `spawn`; `None` without workers.
        rounds: Number of timed rounds.
    """
    loaders = {
        way: DataLoader(
            rows,
            batch_size=BATCH,
            num_workers=workers,
            multiprocessing_context=method,
            persistent_workers=workers > 0,
        )
        for way, rows in ways.items()
    }
    for way, loader in loaders.items():
        for wanted, batch in zip(_batches(ways[way].rows), loader, strict=True):
            if not np.array_equal(batch.numpy(), expected_NVC[wanted]):
                raise SystemExit(f"{way}: {workers} workers ({method}) read something else")
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, loader in loaders.items():
            started = time.perf_counter()
            for _ in loader:
                pass
            seconds[way].append(time.perf_counter() - started)
    return seconds


def _batches(rows: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(rows), BATCH):
        yield list(rows[start : start + BATCH])
