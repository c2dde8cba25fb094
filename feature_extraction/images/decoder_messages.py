"""Discard messages that C libraries print while they decode."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["discard_decoder_messages"]

STDERR = 2

# Two concurrent blocks could restore the descriptor in the wrong order.
_lock = threading.Lock()


@contextmanager
def discard_decoder_messages() -> Iterator[None]:
    """Redirect the file descriptor of standard error to the null device within the block.

    libtiff prints a line per fault, with names such as `tempfile.tif`. If a file cannot be decoded,
    the reason is raised as an exception anyway.
    """
    with _lock:
        try:
            saved = os.dup(STDERR)
        except OSError:  # closed
            yield
            return
        try:
            null_device = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null_device, STDERR)
            os.close(null_device)
            yield
        finally:
            os.dup2(saved, STDERR)
            os.close(saved)
