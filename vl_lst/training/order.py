"""In which order examples are seen: a function of the seed and the step, and of nothing else."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

__all__ = ["ExampleKey", "Schedule", "StepOrder", "in_turn", "uniform"]

ExampleKey = tuple[int, int]
"""Epoch, and index of an example in its table."""


def uniform(*key: int) -> float:
    """A number in [0, 1) that depends on `key` alone, the same on any machine."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Lengths of a run.

    Args:
        examples: How many examples train.
        batch_size: Examples a step; the last step of an epoch takes what is left.
        epochs: Passes, or `None` where `steps` says how long.
        steps: Optimiser steps, or `None`.
    """

    examples: int
    batch_size: int
    epochs: int | None = None
    steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which each example is seen once."""
        return math.ceil(self.examples / self.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        if self.steps is not None:
            return self.steps
        return self.steps_per_epoch * (self.epochs or 0)

    def epoch_of(self, step: int) -> int:
        """The epoch that step `step` belongs to, both counted from 0."""
        return step // self.steps_per_epoch


class StepOrder(Sampler[list[ExampleKey]]):
    """The examples of each step, for the process that asks.

    A permutation of all examples is drawn for each epoch from (seed, epoch). Steps before `start`
    cost nothing: nothing of them is read.

    Args:
        indices: Rows of the table that train.
        schedule: Lengths.
        seed: Of the permutations.
        start: First step to yield.
        process: Which process asks.
        processes: How many share each step. A step that does not divide evenly is filled up with
            the first examples of the epoch, so that every process has equally many.
    """

    def __init__(
        self,
        indices: Sequence[int],
        schedule: Schedule,
        *,
        seed: int,
        start: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._indices = np.asarray(indices)
        self._schedule = schedule
        self._seed = seed
        self._start = start
        self._process = process
        self._processes = processes

    def __len__(self) -> int:
        return self._schedule.total_steps - self._start

    def __iter__(self) -> Iterator[list[ExampleKey]]:
        schedule = self._schedule
        drawn = -1
        for step in range(self._start, schedule.total_steps):
            epoch, place = divmod(step, schedule.steps_per_epoch)
            if epoch != drawn:
                order = np.random.default_rng((self._seed, epoch)).permutation(self._indices)
                drawn = epoch
            first = place * schedule.batch_size
            rows = order[first : first + schedule.batch_size]
            if missing := -len(rows) % self._processes:
                rows = np.concatenate((rows, np.resize(order, missing)))
            yield [(epoch, int(row)) for row in rows[self._process :: self._processes]]


def in_turn(
    examples: int, batch_size: int, *, process: int = 0, processes: int = 1
) -> list[list[ExampleKey]]:
    """Batches of one pass in the table's order, each example seen by exactly one process."""
    rows = range(process, examples, processes)
    return [
        [(0, row) for row in rows[first : first + batch_size]]
        for first in range(0, len(rows), batch_size)
    ]
