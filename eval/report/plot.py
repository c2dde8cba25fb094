"""Scores against costs: every choice of axes, laid out once, for the page and for its script.

Positions go from 0 to 1, so that the script only has to stretch them to the width there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from eval.leaderboard.board import Group, Row
from eval.leaderboard.front import pareto_front
from eval.leaderboard.quantities import MEMORY, Cost, Statistic
from eval.leaderboard.reported import Reported
from eval.leaderboard.units import number_text, score_text, unit_text
from eval.report.axes import Axis, linear_axis, logarithmic_axis

__all__ = ["Plot", "Point", "scatter_plot"]

REPORTED_AXIS = "trainable_percent"
# Costs that differ by more than this factor are first shown on a logarithmic axis.
WIDE_RANGE = 30.0
WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 28, 44


@dataclass(frozen=True, slots=True)
class Point:
    """A mark of the plot as it is drawn before any script runs.

    Args:
        label: The row's.
        reported: Whether a paper reports it.
        x: In pixels from the left.
        y: In pixels from the top.
    """

    label: str
    reported: bool
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Plot:
    """The plot of one group.

    Args:
        data: What the script needs, as plain values.
        points: Marks with a place on the first axes; `None` for those without.
        x_ticks: (pixels from the left, label) pairs.
        y_ticks: (pixels from the top, label) pairs.
        front: Corners of the front's line, as SVG takes them.
    """

    data: dict[str, Any]
    points: tuple[Point | None, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    front: str

    @property
    def drawing_order(self) -> list[int]:
        """Places of all marks, those of reported rows first."""
        places = range(len(self.points))
        return sorted(places, key=lambda place: place < self.data["measured"])

    width = WIDTH
    height = HEIGHT
    left, right, top, bottom = LEFT, RIGHT, TOP, BOTTOM


def scatter_plot(group: Group, reported: Sequence[Reported]) -> Plot | None:
    """Lay out a group's plot; `None` where no cost was measured.

    Args:
        group: The measured rows.
        reported: What papers report; never on the front.
    """
    costs = [cost for cost in group.costs if cost.is_axis]
    if not costs:
        return None
    # Memory first: it is what this is about.
    costs.sort(key=lambda cost: cost.key != MEMORY)
    x_axes = [_cost_axis(cost, group.rows, reported) for cost in costs]
    y_axes = [_score_axis(name, group, reported) for name in group.columns]
    fronts = {
        cost.key: {name: _front(group, cost, name) for name in group.columns} for cost in costs
    }
    labels = [row.label for row in group.rows]
    labels += [f"{each.method}, {each.backbone}" for each in reported]
    data = {
        "labels": labels,
        "measured": len(group.rows),
        "x": x_axes,
        "y": y_axes,
        "fronts": fronts,
        "margins": {"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
    }
    return _drawn(data)


def _front(group: Group, cost: Cost, score: str) -> list[int]:
    """Places of the rows on the front; none where rows were measured in different ways."""
    if not group.is_comparable(cost):
        return []
    points = [
        (found.mean, row.scores[score].mean) if (found := row.costs[cost.key]) else None
        for row in group.rows
    ]
    return pareto_front(points)


def _drawn(data: dict[str, Any]) -> Plot:
    x, y = data["x"][0], data["y"][0]
    scale, heights = x["measured"][x["measured"]["scale"]], y["measured"]

    def across(position: float) -> float:
        return round(LEFT + position * (WIDTH - LEFT - RIGHT), 1)

    def down(position: float) -> float:
        return round(TOP + (1 - position) * (HEIGHT - TOP - BOTTOM), 1)

    points = tuple(
        None
        if place is None or height is None
        else Point(label, number >= data["measured"], across(place), down(height))
        for number, (label, place, height) in enumerate(
            zip(data["labels"], scale["points"], heights["points"], strict=True)
        )
    )
    corners: list[str] = []
    for number in data["fronts"][x["key"]][y["key"]]:
        point = points[number]
        if point is not None:
            # A step: nothing between two points of the front is known to be reached.
            if corners:
                corners.append(f"{point.x},{corners[-1].partition(',')[2]}")
            corners.append(f"{point.x},{point.y}")
    return Plot(
        data,
        points,
        tuple((across(place), label) for place, label in scale["ticks"]),
        tuple((down(place), label) for place, label in heights["ticks"]),
        " ".join(corners),
    )


def _cost_axis(cost: Cost, rows: Sequence[Row], reported: Sequence[Reported]) -> dict[str, Any]:
    measured = [row.costs[cost.key] for row in rows]
    quoted = [
        Statistic(each.trainable_percent, None) if cost.key == REPORTED_AXIS else None
        for each in reported
    ]
    return {
        "key": cost.key,
        "label": cost.label,
        "texts": [unit_text(each, cost.unit) for each in (*measured, *quoted)],
        "measured": _cost_scales(cost, [*measured, *(None for _ in quoted)]),
        # Null where it would be the same.
        "all": _cost_scales(cost, [*measured, *quoted]) if any(quoted) else None,
    }


def _cost_scales(cost: Cost, statistics: Sequence[Statistic | None]) -> dict[str, Any]:
    values = [None if each is None else each.mean for each in statistics]
    write = partial(number_text, unit=cost.unit, short=True)
    is_binary = cost.unit == "bytes"
    logarithmic = logarithmic_axis(values, write, base=2 if is_binary else 10)
    known = [value for value in values if value]
    is_wide = logarithmic is not None and max(known) / min(known) > WIDE_RANGE
    return {
        "linear": _plain(linear_axis(values, write, from_zero=True, binary=is_binary)),
        "logarithmic": logarithmic and _plain(logarithmic),
        "scale": "logarithmic" if is_wide else "linear",
    }


def _score_axis(name: str, group: Group, reported: Sequence[Reported]) -> dict[str, Any]:
    measured = [row.scores[name] for row in group.rows]
    quoted = [each.score(name, group.tasks) for each in reported]
    return {
        "key": name,
        "label": name,
        "texts": [score_text(each) for each in (*measured, *quoted)],
        "measured": _score_scale([*measured, *(None for _ in quoted)]),
        "all": _score_scale([*measured, *quoted]),
    }


def _score_scale(statistics: Sequence[Statistic | None]) -> dict[str, Any]:
    values = [None if each is None else each.mean for each in statistics]
    ends = [
        None
        if each is None or each.deviation is None
        else (each.mean - each.deviation, each.mean + each.deviation)
        for each in statistics
    ]
    axis = linear_axis(
        values, lambda value: f"{value:g}", among=[end for pair in ends if pair for end in pair]
    )
    spreads = [pair and [round(axis.place(end), 5) for end in pair] for pair in ends]
    return {**_plain(axis), "spreads": spreads}


def _plain(axis: Axis) -> dict[str, Any]:
    ticks = [(round(place, 5), label) for place, label in axis.ticks]
    return {"ticks": ticks, "points": axis.positions}
