"""The training curve in a model card: loss and validation scores over the steps."""

import io
from collections.abc import Sequence
from pathlib import Path

from eval.training_log import TrainingLog, read_training_log
from tasks import get_task

__all__ = ["CURVE_FILE", "draw_training_curve"]

CURVE_FILE = "training_curve.png"


def draw_training_curve(run: Path, tasks: Sequence[str]) -> bytes | None:
    """Draw the curve of a run.

    Args:
        run: Folder of the run.
        tasks: Tasks of the run.

    Returns:
        A PNG file, the same for the same numbers; `None` if the run has no readable losses.
    """
    log = read_training_log(run, {name: get_task(name).metric for name in tasks})
    return _draw(log) if log.loss else None


def _draw(log: TrainingLog) -> bytes:
    # Not at the top: it takes half a second, and loading a run needs none of it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*log.loss, strict=True), color="0.6", linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss", color="0.4")
    axes.set_ylim(bottom=0)
    if log.scores:
        right = axes.twinx()
        for task, points in log.scores.items():
            right.plot(*zip(*points, strict=True), marker="o", markersize=4, label=task)
        right.set_ylabel("validation score, percent")
        right.set_ylim(bottom=0)
        right.legend(loc="best", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
