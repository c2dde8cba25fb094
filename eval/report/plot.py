"""The plot of scores against costs, as data for the template and the script of the page.

Positions are fractions from 0 to 1 of the plot's width and height, so they hold at any size.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from eval.leaderboard.board import Group, Row
from eval.leaderboard.quantities import MEMORY, Cost, Statistic
from eval.leaderboard.reported import ReportedRow
from eval.leaderboard.sizes import size_series
from eval.leaderboard.units import number_text, score_text, unit_text
from eval.report.axes import linear_axis, logarithmic_axis
from eval.report.bars import whisker_ends

__all__ = ["scatter_plot"]

# Costs that differ by more than this factor are initially shown on a logarithmic axis.
WIDE_RANGE = 30.0
# Fewer marks show nothing that their table does not.
MIN_MARKS = 3
# Colours of `plot.css`.
NUM_HUES = 6


def scatter_plot(group: Group, reported: Sequence[ReportedRow]) -> dict[str, Any] | None:
    """Return the plot of a group as JSON values; `None` if no cost has enough marks.

    Marks are numbered: first the rows of the group, then those that papers report.

    Args:
        group: Measured rows.
        reported: Rows that papers report; never on a Pareto front.

    Returns:
        A dictionary with these entries:

        * `labels`: label of each mark;
        * `num_measured`: number of marks that were measured;
        * `floors`: label of each floor;
        * `series`: methods over their sizes, as `label`, the numbers of the marks in `rows`, and
          the number of the `hue` that series of one method share;
        * `x`, `y`: all costs and scores to choose from, memory and the main score first. Each has
          `key`, `label`, the `texts` of all marks, and its scales: `measured` spans the measured
          marks and `all` also the reported ones (`None` on a cost that they lack). A scale of
          `x` is `linear` and `logarithmic` (`None` where impossible), with the name of the one to
          show first in `default`. Every scale has `ticks`, as (position, label) pairs, and the
          `positions` of the marks; those of `y` also have `spreads`, the ends of the error bars,
          and the positions of the `floors`, whose scores are in `floor_texts`;
        * `fronts`: numbers of the marks on the Pareto front, by cost and score.
    """
    costs = [cost for cost in group.costs if cost.is_axis and _has_marks(cost, group, reported)]
    if not costs:
        return None
    costs.sort(key=lambda cost: cost.key != MEMORY)
    labels = [row.label for row in group.rows]
    labels += [f"{each.method}, {each.backbone}" for each in reported]
    return {
        "labels": labels,
        "num_measured": len(group.rows),
        "floors": [row.label for row in group.floors],
        "series": _series(group),
        "x": [_cost_axis(cost, group.rows, reported) for cost in costs],
        "y": [_score_axis(name, group, reported) for name in group.columns],
        "fronts": {
            cost.key: {name: group.front(cost, name) for name in group.columns} for cost in costs
        },
    }


def _has_marks(cost: Cost, group: Group, reported: Sequence[ReportedRow]) -> bool:
    measured = sum(row.costs[cost.key] is not None for row in group.rows)
    return measured + sum(cost.key in each.costs for each in reported) >= MIN_MARKS


def _series(group: Group) -> list[dict[str, Any]]:
    number_of = {id(row): number for number, row in enumerate(group.rows)}
    found = size_series(group.rows)
    methods = list(dict.fromkeys(each.method for each in found))
    return [
        {
            "label": f"{each.method} over {each.option}",
            "hue": methods.index(each.method) % NUM_HUES,
            "rows": [number_of[id(row)] for row in each.rows],
        }
        for each in found
    ]


def _cost_axis(cost: Cost, rows: Sequence[Row], reported: Sequence[ReportedRow]) -> dict[str, Any]:
    measured = [row.costs[cost.key] for row in rows]
    quoted = [
        Statistic(each.costs[cost.key], None) if cost.key in each.costs else None
        for each in reported
    ]
    return {
        "key": cost.key,
        "label": cost.label,
        "texts": [unit_text(each, cost.unit) for each in (*measured, *quoted)],
        "measured": _cost_scales(cost, [*measured, *(None for _ in quoted)]),
        "all": _cost_scales(cost, [*measured, *quoted]) if any(quoted) else None,
    }


def _cost_scales(cost: Cost, statistics: Sequence[Statistic | None]) -> dict[str, Any]:
    values = [None if each is None else each.mean for each in statistics]
    format_tick = partial(number_text, unit=cost.unit, short=True)
    is_binary = cost.unit == "bytes"
    linear = linear_axis(values, format_tick, from_zero=True, binary=is_binary)
    # Zero, such as the trainable parameters without training, has no place on such an axis.
    positive = [value or None for value in values]
    logarithmic = logarithmic_axis(positive, format_tick, base=2 if is_binary else 10)
    known = [value for value in positive if value]
    is_wide = logarithmic is not None and max(known) / min(known) > WIDE_RANGE
    return {
        "linear": {"ticks": linear.ticks, "positions": linear.positions},
        "logarithmic": logarithmic
        and {"ticks": logarithmic.ticks, "positions": logarithmic.positions},
        "default": "logarithmic" if is_wide else "linear",
    }


def _score_axis(name: str, group: Group, reported: Sequence[ReportedRow]) -> dict[str, Any]:
    measured = [row.scores[name] for row in group.rows]
    quoted = [each.score(name, group.tasks) for each in reported]
    floors = [row.scores[name] for row in group.floors]
    return {
        "key": name,
        "label": name,
        "texts": [score_text(each) for each in (*measured, *quoted)],
        "floor_texts": [score_text(each) for each in floors],
        "measured": _score_scale([*measured, *(None for _ in quoted)], floors),
        "all": _score_scale([*measured, *quoted], floors),
    }


def _score_scale(
    statistics: Sequence[Statistic | None], floors: Sequence[Statistic]
) -> dict[str, Any]:
    ranges = [None if each is None else whisker_ends(each) for each in statistics]
    ends = [end for found in ranges if found for end in found]
    axis = linear_axis(
        [None if each is None else each.mean for each in statistics],
        lambda value: f"{value:g}",
        extend_to=[*ends, *(floor.mean for floor in floors)],
    )
    return {
        "ticks": axis.ticks,
        "positions": axis.positions,
        "spreads": [found and [axis.position_of(end) for end in found] for found in ranges],
        "floors": [axis.position_of(floor.mean) for floor in floors],
    }
