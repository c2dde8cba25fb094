"""Sizes in bytes, formatted for messages."""

__all__ = ["format_bytes", "needed_and_free"]

UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
STEP = 1024


def format_bytes(size: int) -> str:
    """Return a size in the largest unit of which there is at least one, such as `3.2 MiB`."""
    if size < STEP:
        return f"{size:,} bytes" if size != 1 else "1 byte"
    value, unit = size / STEP, 0
    # Also 1,023.95 would be printed as 1,024.0.
    while value >= STEP - 0.05 and unit + 1 < len(UNITS):
        value, unit = value / STEP, unit + 1
    return f"{value:,.1f} {UNITS[unit]}"


def needed_and_free(needed: int, free: int) -> str:
    """Return text such as `2.0 GiB, but 1.5 GiB are free`; different sizes never look equal."""
    shown = format_bytes(needed), format_bytes(free)
    if shown[0] == shown[1]:
        shown = f"{needed:,} bytes", f"{free:,}"
    return f"{shown[0]}, but {shown[1]} are free"
