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

__all__ = ["Curve", "Panel", "training_curves"]

METRICS = "metrics.jsonl"
# Of a run of a million steps with a line for each.
MAX_METRICS_BYTES = 1 << 27
# More points than a panel has pixels show nothing more.
MOST_POINTS = 300
LARGEST_VALUE = 1e30
WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 30

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a panel.

    Args:
        name: What it shows.
        corners: Its points in pixels, as SVG takes them.
        marks: (x, y, text) of points that say their value; only where there are few.
    """

    name: str
    corners: str
    marks: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes with curves.

    Args:
        title: What is on the vertical axis.
        curves: The lines.
        x_ticks: (pixels from the left, label) pairs.
        y_ticks: (pixels from the top, label) pairs.
    """

    title: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]

    width = WIDTH
    height = HEIGHT
    left, right, top, bottom = LEFT, RIGHT, TOP, BOTTOM


def training_curves(run: Path, metrics: Mapping[str, Metric]) -> tuple[list[Panel], str]:
    """Read a run's curves: the loss, and each task's metric on its validation split.

    Args:
        run: The run's folder.
        metrics: The primary metric of each task.

    Returns:
        The panels, and what is missing or damaged, empty where nothing is.
    """
    losses: list[tuple[float, float]] = []
    scores: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    note = ""
    path = run / METRICS
    try:
        if not path.exists() and not path.is_symlink():
            return [], f"The run has no {METRICS}."
        # A line feed alone ends a line: JSON allows other separators within texts.
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
    panels = []
    if losses:
        panels.append(_panel("Training loss", {"loss": _thinned(losses)}))
    if scores:
        # One for each task: captions' scores are several times those of the others.
        panels.extend(
            _panel(f"{task}, {metrics[task].name}, percent", {task: points}, marked=True)
            for task, points in scores.items()
        )
    return panels, note or ("" if panels else f"{METRICS} has no values.")


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) <= LARGEST_VALUE else None


def _thinned(points: Points) -> Points:
    size = -(-len(points) // MOST_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], fmean(value for _, value in part)) for part in parts]


def _panel(title: str, lines: Mapping[str, Points], *, marked: bool = False) -> Panel:
    steps = [step for points in lines.values() for step, _ in points]
    values = [value for points in lines.values() for _, value in points]
    x_axis = linear_axis(steps, lambda step: f"{step:,.0f}", from_zero=True)
    y_axis = linear_axis(values, lambda value: f"{value:g}")

    def across(step: float) -> float:
        return round(LEFT + x_axis.place(step) * (WIDTH - LEFT - RIGHT), 1)

    def down(value: float) -> float:
        return round(TOP + (1 - y_axis.place(value)) * (HEIGHT - TOP - BOTTOM), 1)

    curves = tuple(
        Curve(
            name,
            " ".join(f"{across(step)},{down(value)}" for step, value in points),
            tuple(
                (across(step), down(value), f"{name}, step {step:,.0f}: {value:.2f}")
                for step, value in points
                if marked
            ),
        )
        for name, points in lines.items()
    )
    return Panel(
        title,
        curves,
        tuple(
            (round(LEFT + place * (WIDTH - LEFT - RIGHT), 1), label)
            for place, label in x_axis.ticks
        ),
        tuple(
            (round(TOP + (1 - place) * (HEIGHT - TOP - BOTTOM), 1), label)
            for place, label in y_axis.ticks
        ),
    )
