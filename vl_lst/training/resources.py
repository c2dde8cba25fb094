"""Memory in use and time spent, for progress lines and the record."""

import gc
import os
import resource
import sys
import time
from pathlib import Path

import torch
from torch import nn

from vl_lst.models.batch import Batch
from vl_lst.training.parts import parts_of
from vl_lst.training.saved_bytes import bytes_saved_for_backward

__all__ = [
    "PeakMemory",
    "Stopwatch",
    "memory_in_use",
    "saved_for_backward",
]

STATM = Path("/proc/self/statm")
WARM_UP_STEPS = 2


def memory_in_use(device: torch.device) -> int:
    """Bytes allocated on a CUDA device, else the resident memory of this process."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Stopwatch:
    """Seconds of training proper, without evaluations and checkpoints.

    Args:
        seconds: Spent before this process.
        examples: Seen before this process.
    """

    def __init__(self, seconds: float = 0.0, examples: int = 0) -> None:
        self.seconds = seconds
        self.examples = examples
        self._since = time.perf_counter()

    def add(self, examples: int) -> None:
        """Count the time since the last call, in which these examples were seen."""
        now = time.perf_counter()
        self.seconds += now - self._since
        self.examples += examples
        self._since = now

    def skip(self) -> None:
        """Leave out the time since the last call."""
        self._since = time.perf_counter()

    @property
    def examples_per_second(self) -> float:
        """Mean speed."""
        return self.examples / max(self.seconds, 1e-9)


class PeakMemory:
    """Highest memory during training steps on CUDA, warm-up steps and evaluations left out.

    Memory that CUDA's allocator keeps of what ran before, such as another model, is returned to the
    device first, so that it does not count as reserved.

    Args:
        device: Where training runs; both peaks stay `None` unless it is CUDA.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._steps = 0
        self.allocated: int | None = None
        self.reserved: int | None = None
        self.skip()

    def step(self) -> None:
        """A training step has ended."""
        self._steps += 1
        if self._device.type != "cuda":
            return
        if self._steps == WARM_UP_STEPS:
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._steps > WARM_UP_STEPS:
            self.allocated = max(self.allocated or 0, torch.cuda.max_memory_allocated(self._device))
            self.reserved = max(self.reserved or 0, torch.cuda.max_memory_reserved(self._device))

    def skip(self) -> None:
        """Forget what was used since the last step."""
        if self._device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)


def saved_for_backward(model: nn.Module, batch: Batch, loss_average: str) -> dict[str, int]:
    """Bytes autograd keeps for the backward pass of a batch, by part; changes no random state.

    Parts that keep nothing are left out; see `vl_lst.training.parts.parts_of` for their names.
    """
    devices = [model.device] if str(model.device).startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        counted = bytes_saved_for_backward(
            model, lambda: model(batch, loss_average), parts_of(model)
        )
    return {name: count for name, count in counted.items() if count or name == "total"}
