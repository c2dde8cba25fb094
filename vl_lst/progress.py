"""How long work says how far it is, whoever shows it."""

from typing import Protocol

__all__ = ["ProgressReport", "silent"]


class ProgressReport(Protocol):
    """Called now and then by long work."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """Report to nobody."""
