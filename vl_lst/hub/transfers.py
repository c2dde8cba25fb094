"""Progress bars of transfers from and to the Hugging Face Hub."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

__all__ = ["transfer_progress"]


@contextmanager
def transfer_progress(*, quiet: bool) -> Iterator[None]:
    """Show progress bars in the block on a terminal only, and not if `quiet`."""
    hides = (quiet or not sys.stderr.isatty()) and not are_progress_bars_disabled()
    if hides:
        disable_progress_bars()
    try:
        yield
    finally:
        if hides:
            enable_progress_bars()
