"""Shared by the pretraining scripts: options, batches from workers, training loop, output."""

import argparse
import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = [
    "Options",
    "Schedule",
    "choose_device",
    "finished_folder",
    "ordered_batches",
    "parse_options",
    "train_on",
]

T = TypeVar("T")

BATCHES_AHEAD_PER_WORKER = 3
WARM_UP_SHARE = 0.05
STEPS_PER_LOG_LINE = 100


@dataclass(frozen=True, slots=True)
class Options:
    """Command-line options of a pretraining script."""

    out: Path
    steps: int
    batch_size: int
    device: torch.device
    workers: int
    seed: int
    minutes: float | None


def parse_options(description: str, *, steps: int, batch_size: int) -> Options:
    """Parse the command line.

    Args:
        description: First paragraph of the help.
        steps: Default number of steps.
        batch_size: Default number of samples per step.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--steps", type=int, default=steps, help="optimizer steps (%(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=batch_size, help="samples per step (%(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=2, help="data worker processes (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights and data (%(default)s)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="time limit; the learning rate is annealed to fit it, so the result depends on the "
        "machine's speed",
    )
    values = parser.parse_args()
    return Options(
        out=values.out,
        steps=values.steps,
        batch_size=values.batch_size,
        device=choose_device(values.device),
        workers=values.workers,
        seed=values.seed,
        minutes=values.minutes,
    )


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is CUDA if available, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


class Schedule:
    """Linear warm-up, then cosine decay to zero, over a number of steps or a time limit.

    Args:
        peak: Learning rate after warm-up.
        steps: Maximum number of steps.
        minutes: Time limit, counted from the first step, or `None`.
    """

    def __init__(self, *, peak: float, steps: int, minutes: float | None) -> None:
        self._peak = peak
        self._steps = steps
        self._seconds = None if minutes is None else 60 * minutes
        self._start: float | None = None

    def learning_rate(self, step: int) -> float | None:
        """Return the learning rate of a step, counted from 0, or `None` once training is over."""
        now = time.monotonic()
        self._start = now if self._start is None else self._start
        done = step / self._steps
        if self._seconds is not None:
            done = max(done, (now - self._start) / self._seconds)
        if done >= 1:
            return None
        if done < WARM_UP_SHARE:
            return self._peak * (done / WARM_UP_SHARE + 1 / self._steps)
        rest = (done - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)
        return self._peak * 0.5 * (1 + math.cos(math.pi * rest))


def ordered_batches(make: Callable[[int], T], *, count: int, workers: int) -> Iterator[T]:
    """Yield `make(0)`, ..., `make(count - 1)` in order, prefetched by worker processes.

    Results travel through pipes, not shared memory, which containers often limit to 64 MB.

    Args:
        make: A picklable function whose result depends on the index alone.
        count: Number of results.
        workers: Number of worker processes; 0 computes in this process.
    """
    if workers == 0:
        yield from map(make, range(count))
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        ahead: deque[Future[T]] = deque()
        for index in range(count):
            ahead.append(pool.submit(make, index))
            if len(ahead) > BATCHES_AHEAD_PER_WORKER * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def train_on(
    batches: Iterable[T],
    model: nn.Module,
    loss_of: Callable[[T], Tensor],
    *,
    peak: float,
    options: Options,
) -> None:
    """Train all parameters of a model with AdamW, one step per batch.

    Args:
        batches: At least as many as steps.
        model: The model.
        loss_of: Returns the loss of a batch.
        peak: Learning rate after warm-up.
        options: Steps and time limit.
    """
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    schedule = Schedule(peak=peak, steps=options.steps, minutes=options.minutes)
    model.train()
    for step, batch in enumerate(batches):
        learning_rate = schedule.learning_rate(step)
        if learning_rate is None:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        loss = loss_of(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % STEPS_PER_LOG_LINE == 0:
            print(f"step {step}: loss {loss.item():.3f}, lr {learning_rate:.2e}", flush=True)


@contextmanager
def finished_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` if the block succeeds."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)
