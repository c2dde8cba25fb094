"""Training curves, read from `metrics.jsonl`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from eval.metrics import Metric
from eval.report.axes import linear_axis
from eval.run_files import METRICS_FILE
from eval.training_log import TrainingLog, read_training_log

__all__ = ["Panel", "Points", "training_curves"]

# A panel has about this many pixels across.
MAX_POINTS = 150
# Shorter curves show their own values only.
MIN_POINTS_TO_SMOOTH = 12
# Share of the points that each point of a smoothed curve averages.
SMOOTHED_SHARE = 0.08

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
    log = read_training_log(run, metrics)
    panels, single, note = _panels(log, metrics), _single_scores(log, metrics), log.note
    if not panels and not single and not note:
        note = f"{METRICS_FILE} has no values."
    return panels, " ".join(filter(None, (single, note)))


def _panels(log: TrainingLog, metrics: Mapping[str, Metric]) -> list[Panel]:
    """Return the panels; the loss of all tasks together only if there is none by task."""
    every = [log.loss, *log.task_losses.values(), *log.scores.values()]
    end = max((step for points in every for step, _ in points), default=1.0)
    panels: list[Panel] = []
    if log.loss and not log.task_losses:
        panels.append(_loss_panel("Training loss", log.loss, end))
    # Per task: captioning scores and losses are several times those of the other tasks.
    for task in dict.fromkeys([*log.task_losses, *log.scores]):
        if task in log.task_losses:
            panels.append(_loss_panel(f"{task}, training loss", log.task_losses[task], end))
        if len(log.scores.get(task, ())) > 1:
            title = f"{task}, {metrics[task].name}, percent"
            panels.append(_panel(title, log.scores[task], (), end, marked_as=task))
    return panels


def _single_scores(log: TrainingLog, metrics: Mapping[str, Metric]) -> str:
    """Return the scores of tasks that were validated once, which have no curve."""
    found = [
        f"{task} at step {points[0][0]:,.0f}: {metrics[task].name} {points[0][1]:.2f} percent"
        for task, points in log.scores.items()
        if len(points) == 1
    ]
    return f"Validated once: {'; '.join(found)}." if found else ""


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
