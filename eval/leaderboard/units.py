"""Formatting of scores, costs and settings."""

import json
import re
from typing import Any

from eval.leaderboard.quantities import Statistic
from eval.run_files import Forgetting, Inference
from eval.text import format_bytes

__all__ = [
    "MISSING",
    "forgetting_text",
    "inference_text",
    "number_text",
    "probability_text",
    "score_text",
    "setting_text",
    "spread_text",
    "unit_text",
]

MISSING = "–"
MINUTE = 60
# Smaller percentages would be printed as 0.00.
MIN_PERCENT_WITH_TWO_DECIMALS = 0.01
MIN_RATE_WITHOUT_DECIMALS = 10
MIN_PROBABILITY = 0.001


def score_text(statistic: Statistic | None, *, has_interval: bool = True) -> str:
    """Return a score such as `64.05 ± 0.31` or, of a single run, `64.05 [63.12, 64.97]`.

    Args:
        statistic: Score.
        has_interval: Whether to include the interval of a single run.
    """
    if statistic is None:
        return MISSING
    spread = spread_text(statistic) if has_interval or statistic.deviation is not None else ""
    return f"{statistic.mean:.2f} {spread}" if spread else f"{statistic.mean:.2f}"


def spread_text(statistic: Statistic) -> str:
    """Return the deviation over seeds or, of a single run, its interval; empty if unknown."""
    if statistic.deviation is not None:
        return f"± {statistic.deviation:.2f}"
    if statistic.interval is not None:
        low, high = statistic.interval
        return f"[{low:.2f}, {high:.2f}]"
    return ""


def probability_text(value: float) -> str:
    """Return a p-value with its sign of equality, such as `= 0.031` or `< 0.001`."""
    return f"= {value:.3f}" if value >= MIN_PROBABILITY else f"< {MIN_PROBABILITY}"


def setting_text(value: str) -> str:
    """Return the text of a JSON value: strings without quotes, digests shortened."""
    parsed: Any = json.loads(value)
    if not isinstance(parsed, str):
        return value
    is_digest = re.fullmatch(r"[0-9a-f]{64}", parsed) is not None
    return parsed[:12] if is_digest else parsed


def unit_text(statistic: Statistic | None, unit: str) -> str:
    """Return the mean of a cost with its unit; a dash if it was not measured."""
    return MISSING if statistic is None else number_text(statistic.mean, unit)


def number_text(value: float, unit: str, *, short: bool = False) -> str:
    """Return a number with its unit.

    Args:
        value: Number.
        unit: `percent`, `bytes`, `seconds`, `rate` or `nats`, as in `Cost.unit`.
        short: Whether to omit trailing zeros, as on the ticks of an axis.
    """
    if unit == "percent":
        is_tiny = 0 < value < MIN_PERCENT_WITH_TWO_DECIMALS
        return f"{value:.3g} %" if short or is_tiny else f"{value:.2f} %"
    if unit == "bytes":
        return format_bytes(value, short=short)
    if unit == "seconds":
        return _seconds_text(value)
    if unit == "nats":
        return f"{value:+.4f}" if value else "0"
    return f"{value:,.0f}" if value >= MIN_RATE_WITHOUT_DECIMALS else f"{value:.2f}"


def inference_text(found: Inference) -> str:
    """Return what answering cost, such as `0.012 s per example in batches of 32 on cpu`."""
    peak = "" if found.peak_bytes is None else f", {number_text(found.peak_bytes, 'bytes')} at most"
    return (
        f"{number_text(found.seconds_per_example, 'seconds')} per example in batches of "
        f"{found.batch_size:,} on {found.device}{peak}"
    )


def forgetting_text(found: Forgetting) -> str:
    """Return by how much the backbone's loss on its pretraining text has changed, and how."""
    how = (
        f"by construction: the backbone is frozen, with a loss of {found.loss_before:.4f}"
        if found.is_by_construction
        else f"from {found.loss_before:.4f} to {found.loss_after:.4f}"
    )
    return (
        f"{number_text(found.increase, 'nats')} nats per token {how} ({found.objective}, "
        f"{found.tokens:,} tokens)"
    )


def _seconds_text(value: float) -> str:
    if value < MINUTE:
        return f"{value:.3g} s"
    minutes, seconds = divmod(round(value), MINUTE)
    hours, minutes = divmod(minutes, MINUTE)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
