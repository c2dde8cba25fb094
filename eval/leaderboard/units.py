"""How numbers are written: two decimals for scores, binary units for bytes."""

import json
import re
from typing import Any

from eval.leaderboard.quantities import Statistic

__all__ = ["number_text", "printable", "score_text", "setting_text", "unit_text"]

MISSING = "–"
BINARY = 1024.0
BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
MINUTE = 60
LEAST_PERCENT = 0.01
ROUNDED_FROM = 10


# Control characters but for tabs and ends of lines, and those that reorder what follows.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text from data with a mark in place of what a terminal or a page would obey, not show."""
    return UNPRINTABLE.sub("\ufffd", text)


def score_text(statistic: Statistic | None) -> str:
    """Such as `64.05 ± 0.31`; without the deviation where there is none."""
    if statistic is None:
        return MISSING
    if statistic.deviation is None:
        return f"{statistic.mean:.2f}"
    return f"{statistic.mean:.2f} ± {statistic.deviation:.2f}"


def setting_text(value: str) -> str:
    """A field's value, given as JSON, as a person would write it; digests are cut short."""
    read: Any = json.loads(value)
    if not isinstance(read, str):
        return value
    is_digest = re.fullmatch(r"[0-9a-f]{64}", read) is not None
    return read[:12] if is_digest else read


def unit_text(statistic: Statistic | None, unit: str) -> str:
    """The mean of a cost with its unit; a dash where it was not measured."""
    return MISSING if statistic is None else number_text(statistic.mean, unit)


def number_text(value: float, unit: str, *, short: bool = False) -> str:
    """Write a number.

    Args:
        value: The number.
        unit: `percent`, `bytes`, `seconds` or `rate`, as `Cost.unit`.
        short: Without digits that say nothing, for the ticks of an axis.
    """
    if unit == "percent":
        return f"{value:.3g} %" if short or 0 < value < LEAST_PERCENT else f"{value:.2f} %"
    if unit == "bytes":
        return _bytes_text(value, short=short)
    if unit == "seconds":
        return _seconds_text(value)
    return f"{value:,.0f}" if value >= ROUNDED_FROM else f"{value:.2f}"


def _bytes_text(value: float, *, short: bool) -> str:
    place = 0
    while abs(value) >= BINARY and place < len(BINARY_UNITS) - 1:
        value /= BINARY
        place += 1
    number = f"{value:.4g}" if short or not place else f"{value:.1f}"
    return f"{number} {BINARY_UNITS[place]}"


def _seconds_text(value: float) -> str:
    if value < MINUTE:
        return f"{value:.3g} s"
    minutes, seconds = divmod(round(value), MINUTE)
    hours, minutes = divmod(minutes, MINUTE)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
