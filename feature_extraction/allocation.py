"""What becomes of memory between two operations of a tower on the processor."""

import ctypes

__all__ = ["keep_freed_memory"]

# Of glibc's <malloc.h>.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep memory that is freed, for the next tensor; say whether it can.

    glibc maps tensors of more than 32 MiB, as the first layers of a tower give for a batch, anew
    each time, and the system clears every page of them at its first touch. That takes about as
    long as the arithmetic does (`benchmarks/extraction.py`, with and without `--give-back`).
    Elsewhere than on glibc nothing is done.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(set_option(M_MMAP_MAX, 0)) and bool(set_option(M_TRIM_THRESHOLD, LARGEST_INT))
