"""Axes: round ticks, and where values lie between the ends (0 to 1)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Axis", "linear_axis", "logarithmic_axis"]

WANTED_TICKS = 5
ROUND_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
# Beyond so many decades, their ends alone are ticks enough.
DECADES_WITH_STEPS = 3
MOST_DECADES_LABELLED = 8
PADDING = 0.06


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis and what lies on it.

    Args:
        ticks: (position from 0 to 1, label) pairs.
        positions: Of the values, from 0 to 1; `None` of those that are not known.
        place: Position of any other value.
    """

    ticks: tuple[tuple[float, str], ...]
    positions: tuple[float | None, ...]
    place: Callable[[float], float]


def linear_axis(
    values: Sequence[float | None],
    write: Callable[[float], str],
    *,
    from_zero: bool = False,
    binary: bool = False,
    among: Sequence[float] = (),
) -> Axis:
    """Lay values out evenly.

    Args:
        values: What lies on the axis.
        write: Writes a tick's label.
        from_zero: Begin at zero.
        binary: Take ticks that are round in KiB, MiB or GiB.
        among: Further values that must have a place.
    """
    known = [value for value in (*values, *among) if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if from_zero:
        low = min(low, 0.0)
    if low == high:
        low, high = low - (0 if from_zero else 1), high + 1
    margin = PADDING * (high - low)
    low, high = low - (0 if from_zero else margin), high + margin
    unit = 1024.0 ** max(0, math.floor(math.log(max(high, 1), 1024))) if binary else 1.0
    step = unit * _round_step((high - low) / unit / WANTED_TICKS)

    def place(value: float) -> float:
        return (value - low) / (high - low)

    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = tuple((place(n * step), write(n * step)) for n in range(first, last + 1))
    return Axis(ticks, _positions(values, place), place)


def logarithmic_axis(
    values: Sequence[float | None], write: Callable[[float], str], *, base: int = 10
) -> Axis | None:
    """Lay values out by their logarithm; `None` where there are none or some are not positive.

    Args:
        values: What lies on the axis.
        write: Writes a tick's label.
        base: Ticks are round in powers of it: 10, or 2 for bytes.
    """
    known = [value for value in values if value is not None]
    if not known or min(known) <= 0:
        return None
    low, high = math.log(min(known)), math.log(max(known))
    margin = PADDING * (high - low) or 1.0
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return (math.log(value) - low) / (high - low)

    first, last = math.floor(low / math.log(base)), math.ceil(high / math.log(base))
    powers = range(first, last + 1)
    decades = (high - low) / math.log(10)
    steps = (1, 2, 5) if base == 10 and decades < DECADES_WITH_STEPS else (1,)
    every = max(1, math.ceil(len(powers) / MOST_DECADES_LABELLED))
    rounds = [step * float(base) ** power for power in powers[::every] for step in steps]
    ticks = tuple((place(value), write(value)) for value in rounds if 0 <= place(value) <= 1)
    return Axis(ticks, _positions(values, place), place)


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return power * next(step for step in ROUND_STEPS if step * power >= least * (1 - 1e-9))


def _positions(
    values: Sequence[float | None], place: Callable[[float], float]
) -> tuple[float | None, ...]:
    return tuple(None if value is None else round(place(value), 5) for value in values)
