"""Axes with round ticks, and positions of values as fractions of an axis from 0 to 1."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Axis", "linear_axis", "logarithmic_axis"]

DESIRED_TICKS = 5
TICK_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
# An axis of at least this many decades has ticks at powers of ten only, not at 2 and 5 times them.
MAX_SUBDIVIDED_DECADES = 3
MAX_LABELLED_POWERS = 8
PADDING = 0.06
DIGITS = 4


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis and the values on it.

    Args:
        ticks: (position, label) pairs.
        positions: Position of each value; `None` for unknown values.
        position_of: Returns the position of any value.
    """

    ticks: tuple[tuple[float, str], ...]
    positions: tuple[float | None, ...]
    position_of: Callable[[float], float]


def linear_axis(
    values: Sequence[float | None],
    format_tick: Callable[[float], str],
    *,
    from_zero: bool = False,
    binary: bool = False,
    extend_to: Sequence[float] = (),
) -> Axis:
    """Return a linear axis that spans all values.

    Args:
        values: Values to place; unknown ones are `None`.
        format_tick: Returns the label of a tick.
        from_zero: Whether to start the axis at zero.
        binary: Whether to use ticks that are round in KiB, MiB or GiB.
        extend_to: Further values that the axis must span.
    """
    known = [value for value in (*values, *extend_to) if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if from_zero:
        low = min(low, 0.0)
    if low == high:
        low, high = low - (0 if from_zero else 1), high + 1
    margin = PADDING * (high - low)
    low, high = low - (0 if from_zero else margin), high + margin
    unit = 1024.0 ** max(0, math.floor(math.log(max(high, 1), 1024))) if binary else 1.0
    step = unit * _tick_step((high - low) / unit / DESIRED_TICKS)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = [n * step for n in range(first, last + 1)]
    return _axis(values, ticks, format_tick, lambda value: (value - low) / (high - low))


def logarithmic_axis(
    values: Sequence[float | None], format_tick: Callable[[float], str], *, base: int = 10
) -> Axis | None:
    """Return a logarithmic axis that spans all values; `None` unless all are positive.

    Args:
        values: Values to place; unknown ones are `None`.
        format_tick: Returns the label of a tick.
        base: Base of the powers at which ticks lie: 10, or 2 for bytes.
    """
    known = [value for value in values if value is not None]
    if not known or min(known) <= 0:
        return None
    low, high = math.log(min(known)), math.log(max(known))
    margin = PADDING * (high - low) or 1.0
    low, high = low - margin, high + margin
    first, last = math.floor(low / math.log(base)), math.ceil(high / math.log(base))
    powers = range(first, last + 1)
    is_subdivided = base == 10 and (high - low) / math.log(10) < MAX_SUBDIVIDED_DECADES
    stride = max(1, math.ceil(len(powers) / MAX_LABELLED_POWERS))
    ticks = [
        step * float(base) ** power
        for power in powers[::stride]
        for step in ((1, 2, 5) if is_subdivided else (1,))
    ]
    ticks = [tick for tick in ticks if low <= math.log(tick) <= high]
    return _axis(values, ticks, format_tick, lambda value: (math.log(value) - low) / (high - low))


def _tick_step(minimum: float) -> float:
    """Return the smallest round step that is not below `minimum`."""
    power = 10.0 ** math.floor(math.log10(minimum))
    return power * next(step for step in TICK_STEPS if step * power >= minimum * (1 - 1e-9))


def _axis(
    values: Sequence[float | None],
    ticks: Sequence[float],
    format_tick: Callable[[float], str],
    exact_position_of: Callable[[float], float],
) -> Axis:
    def position_of(value: float) -> float:
        return round(exact_position_of(value), DIGITS)

    return Axis(
        tuple((position_of(tick), format_tick(tick)) for tick in ticks),
        tuple(None if value is None else position_of(value) for value in values),
        position_of,
    )
