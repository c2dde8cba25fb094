"""Memory allocation on the CPU."""

import ctypes

__all__ = ["keep_freed_memory"]

# From glibc's <malloc.h>.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
MAX_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed memory in this process for the next tensors.

    By default, glibc maps new memory for every tensor larger than 32 MiB, such as the output of an
    encoder's first layers, and the kernel clears each page at its first access. That takes about as
    long as the arithmetic (`benchmarks/extraction.py`, with and without `--give-back`).

    Returns:
        Whether the option could be set; `False` on systems without glibc.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(set_option(M_MMAP_MAX, 0)) and bool(set_option(M_TRIM_THRESHOLD, MAX_INT))
