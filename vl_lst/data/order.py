"""Order of the training examples, which depends on the seed and the step only.

Each step trains on a batch of one task. An epoch is a random permutation of all batches of all
tasks, so tasks occur in proportion to their numbers of batches (the paper's multi-task sampling).
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

__all__ = [
    "ExampleKey",
    "Portion",
    "Schedule",
    "StepKeys",
    "StepOrder",
    "evaluation_batches",
    "uniform_from_key",
]

# Number of adjacent batches whose examples are sorted together for evaluation.
SORTED_BATCHES = 32

ExampleKey = tuple[int, int]
"""Epoch, and row of an example in its table."""

StepKeys = tuple[str, list[ExampleKey]]
"""Name of a task, and keys of the examples of a batch."""


def uniform_from_key(*key: int) -> float:
    """Return a number in [0, 1) that depends on `key` only and is the same on any machine."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


@dataclass(frozen=True, slots=True)
class Portion:
    """Portion of an epoch that trains one task.

    Args:
        num_examples: Number of training examples.
        batch_size: Examples per step; the last batch of an epoch may be smaller.
    """

    num_examples: int
    batch_size: int

    @property
    def steps(self) -> int:
        """Number of steps per epoch."""
        return math.ceil(self.num_examples / self.batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Number of steps of a run.

    Args:
        portions: Portion of each task in an epoch, by name.
        epochs: Number of epochs; `None` if `steps` is given.
        steps: Number of steps; `None` if `epochs` is given.
    """

    portions: Mapping[str, Portion]
    epochs: int | None = None
    steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in which the run sees each example of each task once."""
        return sum(portion.steps for portion in self.portions.values())

    @property
    def total_steps(self) -> int:
        """Number of steps of the run."""
        if self.steps is not None:
            return self.steps
        return self.steps_per_epoch * (self.epochs or 0)

    def epoch_of(self, step: int) -> int:
        """Return the epoch of a step, both counted from 0."""
        return step // self.steps_per_epoch


class StepOrder(Sampler[StepKeys]):
    """Task and examples of each step, for one process.

    In each epoch, permutations of each task's examples and of the batches are drawn from
    (seed, epoch). Steps before `start` are skipped without reading their examples.

    Args:
        rows: Rows of each task's table to train on.
        schedule: Number of steps, and portion of each task.
        seed: Seed for the permutations.
        start: First step, counted from 0.
        rank: Rank of the process.
        num_processes: Number of processes that share each step. A batch that does not divide evenly
            is padded with the first examples of the epoch, so that all get equally many.
    """

    def __init__(
        self,
        rows: Mapping[str, Sequence[int] | NDArray[np.int64]],
        schedule: Schedule,
        *,
        seed: int,
        start: int = 0,
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        self._rows = {task: np.asarray(indices) for task, indices in rows.items()}
        self._schedule = schedule
        self._seed = seed
        self._start = start
        self._rank = rank
        self._num_processes = num_processes

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
                yield task, [(epoch, int(row)) for row in rows[self._rank :: self._num_processes]]
            place = 0

    def _epoch(self, epoch: int) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Return the task and the rows of each step of an epoch, for all processes together."""
        tasks: list[str] = []
        batches: dict[str, Iterator[NDArray[np.int64]]] = {}
        for number, (task, portion) in enumerate(self._schedule.portions.items()):
            tasks += [task] * portion.steps
            batches[task] = self._batches(task, portion, (self._seed, epoch, number))
        mixed = np.random.default_rng((self._seed, epoch)).permutation(len(tasks))
        return ((tasks[place], next(batches[tasks[place]])) for place in mixed)

    def _batches(
        self, task: str, portion: Portion, seed: tuple[int, ...]
    ) -> Iterator[NDArray[np.int64]]:
        order = np.random.default_rng(seed).permutation(self._rows[task])
        for step in range(portion.steps):
            rows = order[step * portion.batch_size :][: portion.batch_size]
            if missing := -len(rows) % self._num_processes:
                rows = np.concatenate((rows, np.resize(order, missing)))
            yield rows


def evaluation_batches(
    prompts: Sequence[str], batch_size: int, *, rank: int = 0, num_processes: int = 1
) -> list[list[ExampleKey]]:
    """Return the keys of one process's batches for one pass over a table.

    Prompts of a batch are similarly long, so that there is little padding, and equal prompts, which
    are computed once, are next to each other. Only examples that are near each other in the table
    are sorted, since they may have the same images.

    Args:
        prompts: Prompt of each example.
        batch_size: Examples per batch.
        rank: Rank of the process.
        num_processes: Number of processes; each example goes to one of them.
    """
    rows = range(rank, len(prompts), num_processes)
    window = SORTED_BATCHES * batch_size
    ordered = [
        row
        for first in range(0, len(rows), window)
        for row in sorted(
            rows[first : first + window], key=lambda row: (len(prompts[row]), prompts[row])
        )
    ]
    return [
        [(0, row) for row in ordered[first : first + batch_size]]
        for first in range(0, len(ordered), batch_size)
    ]
