"""Training curves, read from `metrics.jsonl`."""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.errors import InputError
from eval.files import open_text
from eval.metrics import Metric
from eval.report.axes import linear_axis

__all__ = ["Panel", "Points", "training_curves"]

METRICS = "metrics.jsonl"
# Prefix of the loss of one task in a line of several.
TASK_LOSS = "loss_"
# Enough for a million steps with one line each.
MAX_METRICS_BYTES = 1 << 27
# A panel has about this many pixels across.
MAX_POINTS = 150
# Shorter curves show their own values only.
MIN_POINTS_TO_SMOOTH = 12
# Share of the points that each point of a smoothed curve averages.
SMOOTHED_SHARE = 0.08
MAX_VALUE = 1e30

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One curve with its axes; positions are fractions from 0 to 1 of the width and height.

    Args:
        title: What the curve shows.
        points: (x, y) positions.
        raw: Positions before smoothing, drawn faintly; empty if the curve is not smoothed.
        tooltips: Text for each point; empty for a curve without marks.
        x_ticks: (position, label) pairs.
        y_ticks: (position, label) pairs.
    """

    title: str
    points: Points
    raw: Points
    tooltips: tuple[str, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def training_curves(run: Path, metrics: Mapping[str, Metric]) -> tuple[list[Panel], str]:
    """Return the curves of a run: the loss and the validation score of each task.

    All panels have the same range of steps, so that a loss can be read next to its score.

    Args:
        run: Run directory.
        metrics: Primary metric of each task.

    Returns:
        The panels, and a note about what is missing or damaged; empty if nothing is.
    """
    values = _Values()
    note = ""
    path = run / METRICS
    try:
        if not path.exists() and not path.is_symlink():
            return [], f"The run has no {METRICS}."
        # Only a line feed ends a line: JSON allows other separators in strings.
        with open_text(
            path, expected="losses and scores", newline="\n", max_bytes=MAX_METRICS_BYTES
        ) as file:
            lines = file.readlines()
    except (InputError, OSError) as error:
        return [], f"{METRICS} cannot be read: {error}"
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            step = _number(content["step"])
            task = content.get("task")
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            note = f"Line {number} of {METRICS} is damaged; the curves end before it."
            break
        if step is None:
            continue
        if task is None:
            values.add_losses(step, content, metrics)
        elif isinstance(task, str) and task in metrics:
            score = _number(content.get(metrics[task].name))
            if score is not None:
                values.scores[task].append((step, score * metrics[task].factor))
    panels, single = values.panels(metrics), values.single_scores(metrics)
    if not panels and not single and not note:
        note = f"{METRICS} has no values."
    return panels, " ".join(filter(None, (single, note)))


class _Values:
    """Losses and scores of a run by task, as (step, value) pairs."""

    def __init__(self) -> None:
        self.total: list[tuple[float, float]] = []
        self.losses: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self.scores: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)

    def add_losses(self, step: float, content: Mapping[str, Any], tasks: Collection[str]) -> None:
        """Add the losses of one line.

        Args:
            step: Number of steps done.
            content: Values of the line.
            tasks: Names of all tasks.
        """
        if (loss := _number(content.get("loss"))) is not None:
            self.total.append((step, loss))
        for name, value in content.items():
            task = name.removeprefix(TASK_LOSS)
            if task != name and task in tasks and (loss := _number(value)) is not None:
                self.losses[task].append((step, loss))

    def panels(self, metrics: Mapping[str, Metric]) -> list[Panel]:
        """Return the panels; the loss of all tasks together only if there is none by task."""
        every = [self.total, *self.losses.values(), *self.scores.values()]
        end = max((step for points in every for step, _ in points), default=1.0)
        panels: list[Panel] = []
        if self.total and not self.losses:
            panels.append(_loss_panel("Training loss", self.total, end))
        # Per task: captioning scores and losses are several times those of the other tasks.
        for task in dict.fromkeys([*self.losses, *self.scores]):
            if task in self.losses:
                panels.append(_loss_panel(f"{task}, training loss", self.losses[task], end))
            if len(self.scores.get(task, ())) > 1:
                title = f"{task}, {metrics[task].name}, percent"
                panels.append(_panel(title, self.scores[task], (), end, marked_as=task))
        return panels

    def single_scores(self, metrics: Mapping[str, Metric]) -> str:
        """Return the scores of tasks that were validated once, which have no curve."""
        found = [
            f"{task} at step {points[0][0]:,.0f}: {metrics[task].name} {points[0][1]:.2f} percent"
            for task, points in self.scores.items()
            if len(points) == 1
        ]
        return f"Validated once: {'; '.join(found)}." if found else ""


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) <= MAX_VALUE else None


def _loss_panel(title: str, points: Points, end: float) -> Panel:
    raw = _thinned(points)
    if len(raw) < MIN_POINTS_TO_SMOOTH:
        return _panel(title, raw, (), end)
    return _panel(f"{title} (bold: smoothed)", _smoothed(raw), raw, end)


def _smoothed(points: Points) -> Points:
    """Return each point as the mean of itself and its neighbours on both sides."""
    reach = math.ceil(SMOOTHED_SHARE * len(points) / 2)
    smooth = []
    for index, (step, _) in enumerate(points):
        near = points[max(0, index - reach) : index + reach + 1]
        smooth.append((step, fmean(y for _, y in near)))
    return smooth


def _thinned(points: Points) -> Points:
    """Return at most `MAX_POINTS` points, each the mean of equally many neighbours."""
    size = -(-len(points) // MAX_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], fmean(value for _, value in part)) for part in parts]


def _panel(title: str, points: Points, raw: Points, end: float, *, marked_as: str = "") -> Panel:
    x_axis = linear_axis(
        [*(x for x, _ in points), end], lambda step: f"{step:,.0f}", from_zero=True
    )
    y_axis = linear_axis([y for _, y in (*points, *raw)], lambda value: f"{value:g}")
    drawn, faint = (
        [(x_axis.position_of(x), y_axis.position_of(y)) for x, y in each] for each in (points, raw)
    )
    return Panel(
        title,
        drawn,
        faint,
        tuple(f"{marked_as}, step {x:,.0f}: {y:.2f}" for x, y in points if marked_as),
        x_axis.ticks,
        y_axis.ticks,
    )
