"""Text for people: sizes in bytes, and control characters made visible."""

import re

__all__ = ["escape_controls", "format_bytes"]

UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
STEP = 1024
# Control characters except tabs and line feeds, and those that change the direction of writing.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def escape_controls(text: str) -> str:
    r"""Return text from data with control characters as escapes, such as `\x1b`.

    A terminal or a browser would act on them instead of showing them.
    """
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def format_bytes(size: float, *, short: bool = False) -> str:
    """Return a size in the largest binary unit of which there is at least one, such as `3.2 MiB`.

    Args:
        size: Number of bytes.
        short: Omit trailing zeros, as on the ticks of an axis.
    """
    if size < STEP:
        number = f"{size:.4g}" if short else f"{size:,.0f}"
        return f"{number} byte{'' if number == '1' else 's'}"
    value, unit = size / STEP, 0
    # 1,023.95 would be printed as 1,024.0.
    while value >= STEP - 0.05 and unit + 1 < len(UNITS):
        value, unit = value / STEP, unit + 1
    return f"{f'{value:.4g}' if short else f'{value:,.1f}'} {UNITS[unit]}"
