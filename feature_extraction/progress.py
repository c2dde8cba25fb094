"""Progress of long operations."""

from typing import Protocol

__all__ = ["OnProgress"]


class OnProgress(Protocol):
    """Progress callback protocol."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Report progress.

        Args:
            done: Number of finished items.
            total: Number of all items.
            note: Additional text, such as the rate.
        """
