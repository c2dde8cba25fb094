"""Memory and time of training, for progress lines and the record."""

import gc
import os
import resource
import sys
import time
from pathlib import Path

import torch

__all__ = ["WARM_UP_STEPS", "PeakMemory", "Stopwatch", "memory_in_use"]

STATM = Path("/proc/self/statm")
WARM_UP_STEPS = 2


def memory_in_use(device: torch.device) -> int:
    """Return the bytes allocated on a CUDA device, or the resident memory of this process."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Stopwatch:
    """Time spent in training steps, without evaluation and checkpoints.

    Args:
        seconds: Seconds spent in earlier sessions.
        examples: Examples seen in earlier sessions.
    """

    def __init__(self, seconds: float = 0.0, examples: int = 0) -> None:
        self.seconds = seconds
        self.examples = examples
        self._since = time.perf_counter()

    def add(self, examples: int) -> None:
        """Count the time since the last call, and the examples seen in it."""
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
    """Peak memory of training steps on CUDA, without warm-up steps and evaluation.

    Cached memory that an earlier model left in CUDA's allocator is freed first, so that it does not
    count as reserved.

    Args:
        device: Training device. Both peaks stay `None` unless it is CUDA.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._steps = 0
        self.allocated: int | None = None
        self.reserved: int | None = None
        self.skip()

    def step(self) -> None:
        """Update the peaks after a training step."""
        self._steps += 1
        if self._device.type != "cuda":
            return
        if self._steps == WARM_UP_STEPS:
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._steps > WARM_UP_STEPS:
            self.allocated = max(self.allocated or 0, torch.cuda.max_memory_allocated(self._device))
            self.reserved = max(self.reserved or 0, torch.cuda.max_memory_reserved(self._device))

    def skip(self) -> None:
        """Leave out the memory used since the last step."""
        if self._device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
