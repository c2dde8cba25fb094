"""How many processor cores this process may use."""

import os
from pathlib import Path

__all__ = ["usable_cores"]

# Of version 2 control groups, as a container sees its own: quota and period in microseconds.
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Return the number of cores this process may use, at least 1.

    The cores it may be scheduled on count, fewer where a container has a quota of CPU time. Where
    the system tells neither (macOS), all cores of the machine count.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _quota() or cores))


def _quota() -> int | None:
    """Return the CPU quota in cores, rounded up; `None` if there is none."""
    try:
        quota, period = map(int, CPU_QUOTA.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        # No such file, or it holds `max`.
        return None
    return -(-quota // period) if period > 0 else None
