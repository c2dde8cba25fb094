"""Bars of scores in the cells of a table; positions are fractions from 0 to 1 of their width."""

from collections.abc import Sequence
from dataclasses import dataclass

from eval.leaderboard.quantities import Statistic

__all__ = ["Bar", "score_bars", "whisker_ends"]

# Scores in percent are drawn up to here, whatever the highest is.
FULL_SCORE = 100.0
DIGITS = 4


@dataclass(frozen=True, slots=True)
class Bar:
    """A score as a bar from 0.

    Args:
        start: Left end.
        width: Width.
        whisker: Ends of the deviation over seeds or of a single run's interval; `None` if unknown.
        floors: Scores of the floors of the table.
    """

    start: float
    width: float
    whisker: tuple[float, float] | None
    floors: tuple[float, ...]


def score_bars(scores: Sequence[Statistic | None], floors: Sequence[Statistic]) -> list[Bar | None]:
    """Return a bar for each score of a column, on one scale; `None` for unknown scores.

    Args:
        scores: Scores.
        floors: Scores to mark on each bar, some of `scores`.
    """
    known = [each for each in scores if each is not None]
    values = [each.mean for each in known]
    values += [end for each in known for end in whisker_ends(each) or ()]
    low, high = min([0.0, *values]), max([FULL_SCORE, *values])

    def position(value: float) -> float:
        return round((value - low) / (high - low), DIGITS)

    marks = tuple(position(floor.mean) for floor in floors)
    bars: list[Bar | None] = []
    for each in scores:
        if each is None:
            bars.append(None)
            continue
        start, end = sorted((position(0), position(each.mean)))
        ends = whisker_ends(each)
        whisker = (position(ends[0]), position(ends[1])) if ends else None
        bars.append(Bar(start, round(end - start, DIGITS), whisker, marks))
    return bars


def whisker_ends(statistic: Statistic) -> tuple[float, float] | None:
    """Return the ends of an error bar: the deviation over seeds, or a single run's interval."""
    if statistic.deviation is None:
        return statistic.interval
    return statistic.mean - statistic.deviation, statistic.mean + statistic.deviation
