"""In which order examples are seen: a function of the seed and the step, and of nothing else.

Each step takes a batch of one task. An epoch holds all batches of all tasks, mixed at random, so
that tasks take turns in proportion to their numbers of batches (the paper's multi-task sampling).
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

__all__ = ["ExampleKey", "Portion", "Schedule", "StepKeys", "StepOrder", "in_turn", "uniform"]

ExampleKey = tuple[int, int]
"""Epoch, and index of an example in its table."""

StepKeys = tuple[str, list[ExampleKey]]
"""A task, and the examples of it that make a batch."""


def uniform(*key: int) -> float:
    """A number in [0, 1) that depends on `key` alone, the same on any machine."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


@dataclass(frozen=True, slots=True)
class Portion:
    """What one task contributes to an epoch.

    Args:
        examples: How many of its examples train.
        batch_size: Examples a step; its last step of an epoch takes what is left.
    """

    examples: int
    batch_size: int

    @property
    def steps(self) -> int:
        """Steps in which each example is seen once."""
        return math.ceil(self.examples / self.batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Lengths of a run.

    Args:
        portions: Of each task, by name.
        epochs: Passes, or `None` where `steps` says how long.
        steps: Optimiser steps, or `None`.
    """

    portions: Mapping[str, Portion]
    epochs: int | None = None
    steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which each example of each task is seen once."""
        return sum(portion.steps for portion in self.portions.values())

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        if self.steps is not None:
            return self.steps
        return self.steps_per_epoch * (self.epochs or 0)

    def epoch_of(self, step: int) -> int:
        """The epoch that step `step` belongs to, both counted from 0."""
        return step // self.steps_per_epoch


class StepOrder(Sampler[StepKeys]):
    """The task and the examples of each step, for the process that asks.

    For each epoch a permutation of each task's examples, and one of the tasks' turns, are drawn
    from (seed, epoch). Steps before `start` cost nothing: nothing of them is read.

    Args:
        rows: Rows of each task's table that train.
        schedule: Lengths.
        seed: Of the permutations.
        start: First step to yield.
        process: Which process asks.
        processes: How many share each step. A step that does not divide evenly is filled up with
            the first examples of the epoch, so that every process has equally many.
    """

    def __init__(
        self,
        rows: Mapping[str, Sequence[int] | NDArray[np.int64]],
        schedule: Schedule,
        *,
        seed: int,
        start: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._rows = {task: np.asarray(indices) for task, indices in rows.items()}
        self._schedule = schedule
        self._seed = seed
        self._start = start
        self._process = process
        self._processes = processes

    def __len__(self) -> int:
        return self._schedule.total_steps - self._start

    def __iter__(self) -> Iterator[StepKeys]:
        first_epoch, place = divmod(self._start, self._schedule.steps_per_epoch)
        left = len(self)
        for epoch in itertools.count(first_epoch):
            for task, rows in itertools.islice(self._epoch(epoch), place, None):
                if left == 0:
                    return
                left -= 1
                yield task, [(epoch, int(row)) for row in rows[self._process :: self._processes]]
            place = 0

    def _epoch(self, epoch: int) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Each step's task and rows, of all processes."""
        turns: list[str] = []
        batches: dict[str, Iterator[NDArray[np.int64]]] = {}
        for number, (task, portion) in enumerate(self._schedule.portions.items()):
            turns += [task] * portion.steps
            batches[task] = self._batches(task, portion, (self._seed, epoch, number))
        mixed = np.random.default_rng((self._seed, epoch)).permutation(len(turns))
        return ((turns[turn], next(batches[turns[turn]])) for turn in mixed)

    def _batches(
        self, task: str, portion: Portion, seed: tuple[int, ...]
    ) -> Iterator[NDArray[np.int64]]:
        order = np.random.default_rng(seed).permutation(self._rows[task])
        for step in range(portion.steps):
            rows = order[step * portion.batch_size :][: portion.batch_size]
            if missing := -len(rows) % self._processes:
                rows = np.concatenate((rows, np.resize(order, missing)))
            yield rows


def in_turn(
    examples: int, batch_size: int, *, process: int = 0, processes: int = 1
) -> list[list[ExampleKey]]:
    """Batches of one pass in the table's order, each example seen by exactly one process."""
    rows = range(process, examples, processes)
    return [
        [(0, row) for row in rows[first : first + batch_size]]
        for first in range(0, len(rows), batch_size)
    ]
