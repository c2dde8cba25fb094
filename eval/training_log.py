"""Losses and validation scores over the steps of a run, read from `metrics.jsonl`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.errors import InputError
from eval.files import open_text
from eval.metrics import Metric
from eval.run_files import METRICS_FILE

__all__ = ["Curve", "TrainingLog", "read_training_log"]

# Prefix of the loss of one task in a line of several.
TASK_LOSS = "loss_"
# Enough for a million steps with one line each.
MAX_METRICS_BYTES = 1 << 27
MAX_VALUE = 1e30

# (step, value) pairs.
Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """Curves of a run.

    Args:
        loss: Training loss of all tasks together.
        task_losses: Training loss of each task, in a run of several.
        scores: Primary metric of each task on its validation split, in percent.
        note: What is missing or damaged, as a sentence; empty if nothing is.
    """

    loss: Curve
    task_losses: Mapping[str, Curve]
    scores: Mapping[str, Curve]
    note: str


def read_training_log(run: Path, metrics: Mapping[str, Metric]) -> TrainingLog:
    """Read the losses and scores of a run, up to the first damaged line.

    Values that are not numbers, such as a loss that overflowed, are left out.

    Args:
        run: Run directory.
        metrics: Primary metric of each task.
    """
    loss: list[tuple[float, float]] = []
    task_losses: dict[str, list[tuple[float, float]]] = {}
    scores: dict[str, list[tuple[float, float]]] = {}
    lines, note = _read_lines(run / METRICS_FILE)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            step = _number(content["step"])
            task = content.get("task")
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            note = f"Line {number} of {METRICS_FILE} is damaged; the curves end before it."
            break
        if step is None:
            continue
        if task is None:
            if (value := _number(content.get("loss"))) is not None:
                loss.append((step, value))
            for name, value in _losses_by_task(content, metrics).items():
                task_losses.setdefault(name, []).append((step, value))
        elif isinstance(task, str) and task in metrics:
            if (value := _number(content.get(metrics[task].name))) is not None:
                scores.setdefault(task, []).append((step, metrics[task].percent(value)))
    return TrainingLog(loss, task_losses, scores, note)


def _read_lines(path: Path) -> tuple[list[str], str]:
    """Return the lines of a file, and why there are none."""
    try:
        if not path.exists() and not path.is_symlink():
            return [], f"The run has no {METRICS_FILE}."
        # Only a line feed ends a line: JSON allows other separators in strings.
        with open_text(
            path, expected="losses and scores", newline="\n", max_bytes=MAX_METRICS_BYTES
        ) as file:
            return file.readlines(), ""
    except (InputError, OSError) as error:
        return [], f"{METRICS_FILE} cannot be read: {error}"


def _losses_by_task(content: Mapping[str, Any], metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Return the losses of single tasks in a line."""
    return {
        task: loss
        for name, value in content.items()
        if (task := name.removeprefix(TASK_LOSS)) != name
        and task in metrics
        and (loss := _number(value)) is not None
    }


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) <= MAX_VALUE else None
