"""The training curve in a model card: loss and validation scores over the steps."""

import io
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.errors import InputError
from eval.files import open_text
from tasks import get_task

__all__ = ["CURVE_FILE", "draw_training_curve"]

CURVE_FILE = "training_curve.png"
METRICS_FILE = "metrics.jsonl"
# Enough for a million steps with one line each.
MAX_METRICS_BYTES = 1 << 27
Points = list[tuple[float, float]]


def draw_training_curve(run: Path, tasks: Sequence[str]) -> bytes | None:
    """Draw the curve of a run.

    Args:
        run: Folder of the run.
        tasks: Tasks of the run.

    Returns:
        A PNG file, the same for the same numbers; `None` if the run has no readable losses.
    """
    losses: Points = []
    scores: dict[str, Points] = defaultdict(list)
    metrics = {name: get_task(name).metric for name in tasks}
    for line in _lines(run / METRICS_FILE):
        step, task = _number(line.get("step")), line.get("task")
        if step is None:
            continue
        if task is None and (loss := _number(line.get("loss"))) is not None:
            losses.append((step, loss))
        elif task in metrics and (score := _number(line.get(metrics[task].name))) is not None:
            scores[task].append((step, metrics[task].percent(score)))
    if not losses:
        return None
    return _draw(losses, scores)


def _draw(losses: Points, scores: dict[str, Points]) -> bytes:
    # Not at the top: it takes half a second, and loading a run needs none of it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*losses, strict=True), color="0.6", linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss", color="0.4")
    axes.set_ylim(bottom=0)
    if scores:
        right = axes.twinx()
        for task, points in scores.items():
            right.plot(*zip(*points, strict=True), marker="o", markersize=4, label=task)
        right.set_ylabel("validation score, percent")
        right.set_ylim(bottom=0)
        right.legend(loc="best", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of the file up to the first damaged one."""
    try:
        with open_text(
            path, expected="losses and scores", newline="\n", max_bytes=MAX_METRICS_BYTES
        ) as file:
            for text in file:
                line = json.loads(text)
                if not isinstance(line, dict):
                    return
                yield line
    except (InputError, OSError, ValueError, RecursionError):
        return


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e30 else None  # type: ignore[arg-type]
