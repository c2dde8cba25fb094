"""Needed and free bytes, formatted for messages."""

from eval.text import format_bytes

__all__ = ["format_bytes", "needed_and_free"]


def needed_and_free(needed: int, free: int) -> str:
    """Return text such as `2.0 GiB, but 1.5 GiB are free`; different sizes never look equal."""
    shown = format_bytes(needed), format_bytes(free)
    if shown[0] == shown[1]:
        shown = f"{needed:,} bytes", f"{free:,}"
    return f"{shown[0]}, but {shown[1]} are free"
