"""What decoders in C print by themselves, kept off standard error."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["discard_decoder_messages"]

STANDARD_ERROR = 2

# Two blocks at once could restore the descriptor in the wrong order.
_lock = threading.Lock()


@contextmanager
def discard_decoder_messages() -> Iterator[None]:
    """Discard what is written to the descriptor of standard error during the block.

    libtiff prints a line for each fault it finds, under names such as `tempfile.tif`. The reason
    why a file cannot be decoded is raised as an exception in any case.
    """
    with _lock:
        try:
            saved = os.dup(STANDARD_ERROR)
        except OSError:  # closed
            yield
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, STANDARD_ERROR)
            os.close(nowhere)
            yield
        finally:
            os.dup2(saved, STANDARD_ERROR)
            os.close(saved)
