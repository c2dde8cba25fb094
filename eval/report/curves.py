"""Training curves, read from `metrics.jsonl`."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from eval.errors import InputError
from eval.files import open_text
from eval.metrics import Metric
from eval.report.axes import linear_axis

__all__ = ["Panel", "training_curves"]

METRICS = "metrics.jsonl"
# Enough for a million steps with one line each.
MAX_METRICS_BYTES = 1 << 27
# A panel has about this many pixels across.
MAX_POINTS = 300
MAX_VALUE = 1e30

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One curve with its axes; positions are fractions from 0 to 1 of the width and height.

    Args:
        title: What the curve shows.
        points: (x, y) positions.
        tooltips: Text for each point; empty for a curve without marks.
        x_ticks: (position, label) pairs.
        y_ticks: (position, label) pairs.
    """

    title: str
    points: Points
    tooltips: tuple[str, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def training_curves(run: Path, metrics: Mapping[str, Metric]) -> tuple[list[Panel], str]:
    """Return the curves of a run: the loss, and the validation score of each task.

    Args:
        run: Run directory.
        metrics: Primary metric of each task.

    Returns:
        The panels, and a note about what is missing or damaged; empty if nothing is.
    """
    losses: list[tuple[float, float]] = []
    scores: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
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
            values = json.loads(line)
            step = _number(values["step"])
        except (ValueError, RecursionError, TypeError, KeyError):
            note = f"Line {number} of {METRICS} is damaged; the curves end before it."
            break
        if step is None:
            continue
        task = values.get("task")
        if task is None:
            loss = _number(values.get("loss"))
            if loss is not None:
                losses.append((step, loss))
        elif isinstance(task, str) and task in metrics:
            score = _number(values.get(metrics[task].name))
            if score is not None:
                scores[task].append((step, score * metrics[task].factor))
    panels = [_panel("Training loss", _thinned(losses))] if losses else []
    # One panel per task: captioning scores are several times those of the other tasks.
    panels.extend(
        _panel(f"{task}, {metrics[task].name}, percent", points, marked_as=task)
        for task, points in scores.items()
    )
    return panels, note or ("" if panels else f"{METRICS} has no values.")


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) <= MAX_VALUE else None


def _thinned(points: Points) -> Points:
    """Return at most `MAX_POINTS` points, each the mean of equally many neighbours."""
    size = -(-len(points) // MAX_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], fmean(value for _, value in part)) for part in parts]


def _panel(title: str, points: Points, *, marked_as: str = "") -> Panel:
    x_axis = linear_axis([x for x, _ in points], lambda step: f"{step:,.0f}", from_zero=True)
    y_axis = linear_axis([y for _, y in points], lambda value: f"{value:g}")
    return Panel(
        title,
        [(x_axis.position_of(x), y_axis.position_of(y)) for x, y in points],
        tuple(f"{marked_as}, step {x:,.0f}: {y:.2f}" for x, y in points if marked_as),
        x_axis.ticks,
        y_axis.ticks,
    )
