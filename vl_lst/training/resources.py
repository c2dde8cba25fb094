"""Memory and time of training, for progress lines and the record."""

import gc
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

__all__ = ["WARM_UP_STEPS", "PeakMemory", "Stopwatch", "memory_available", "memory_in_use"]

STATM = Path("/proc/self/statm")
MEMORY_INFO = Path("/proc/meminfo")
# Limit, use and statistics of the control group of this process, in versions 2 and 1 of Linux's
# control groups. What is cached of files in use is freed when memory is needed.
CONTROL_GROUP = Path("/sys/fs/cgroup")
GROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
WARM_UP_STEPS = 2


def memory_in_use(device: torch.device) -> int:
    """Return the bytes allocated on a CUDA device, or the resident memory of this process."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_available(device: torch.device) -> int | None:
    """Return the bytes that can still be allocated on a device; `None` if the system tells nothing.

    On CUDA, what torch has reserved and not allocated counts as available. On the CPU, it is what
    Linux estimates without swapping, and at most what a control group, such as a container, has
    left.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    kibibytes = _numbers(MEMORY_INFO).get("MemAvailable:")
    if kibibytes is None:
        return None
    return min([1024 * kibibytes, *_left_in_group()])


def _left_in_group() -> Iterator[int]:
    for limit_file, use_file, statistics_file, cache in GROUP_FILES:
        try:
            limit = int((CONTROL_GROUP / limit_file).read_text())
            used = int((CONTROL_GROUP / use_file).read_text())
        except (OSError, ValueError):  # no such version, or no limit
            continue
        cached = _numbers(CONTROL_GROUP / statistics_file).get(cache, 0)
        yield max(0, limit - used + cached)


def _numbers(path: Path) -> dict[str, int]:
    """Return the lines of a file that consist of a name, a number, and perhaps a unit."""
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


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
