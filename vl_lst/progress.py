"""Progress callbacks of long operations."""

from typing import Protocol

__all__ = ["ProgressReport", "silent"]


class ProgressReport(Protocol):
    """Progress callback: units of work done, their total, and a note."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """Ignore progress."""
