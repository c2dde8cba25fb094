"""Number of CPU cores available to this process."""

import os
from pathlib import Path

__all__ = ["usable_cores"]

# Control groups version 2, seen from inside a container: quota and period in microseconds.
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Return the number of cores available to this process, at least 1.

    This is the number of cores it may be scheduled on, limited by the CPU quota of its container.
    On systems that report neither (macOS), it is the number of cores of the machine.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _quota() or cores))


def _quota() -> int | None:
    """Return the CPU quota in cores, rounded up; `None` if there is no quota."""
    try:
        quota, period = map(int, CPU_QUOTA.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        # The file does not exist, or contains `max`.
        return None
    return -(-quota // period) if period > 0 else None
