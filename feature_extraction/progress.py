"""Progress of long operations."""

from typing import Protocol

__all__ = ["OnProgress"]


class OnProgress(Protocol):
    """Progress callback: number of finished items, of all items, and a note such as the rate."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...
