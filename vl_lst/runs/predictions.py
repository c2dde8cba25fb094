"""A run's predictions and their per-example scores.

Training and evaluation store the per-example scores of the official evaluator, so that displaying
examples and computing intervals does not require scoring again. The scores file contains the
SHA-256 of its predictions file. If the predictions have been replaced since, for example because a
process was killed between the two writes, the scores are ignored.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from eval.errors import InputError, OutputError
from eval.files import MAX_TEXT_BYTES, read_json
from eval.outputs import write_json
from eval.regular_files import open_regular, require_regular_if_any
from eval.run_files import ExampleScores
from tasks import Example, Score, Task
from tasks._clusters import find_clusters

__all__ = [
    "predictions_file",
    "read_example_scores",
    "score_examples",
    "write_example_scores",
]


def predictions_file(run: Path, task: Task, split: str) -> Path:
    """Return the path of a split's predictions in a run's folder."""
    return run / "predictions" / f"{task.name}-{split}{task.predictions_suffix}"


def write_example_scores(path: Path, task: Task, score: Score, examples: Iterable[Example]) -> None:
    """Write per-example scores and clusters next to their predictions.

    Args:
        path: Predictions file, already written. If it is not a regular file, nothing is written.
        task: Task of the predictions.
        score: Official scores of the predictions.
        examples: Examples of the predictions.

    Raises:
        OutputError: The file cannot be written, or something else has its name.
    """
    if not path.is_file() or not score.per_example:
        return
    scores = score_examples(path, task, score, examples)
    out = _scores_file(path)
    try:
        require_regular_if_any(out)
    except InputError as error:
        raise OutputError(str(error)) from None
    write_json(out, scores.model_dump(mode="json"))


def score_examples(
    path: Path, task: Task, score: Score, examples: Iterable[Example]
) -> ExampleScores:
    """Return the per-example scores of predictions, as their file holds them.

    Args:
        path: Predictions file.
        task: Task of the predictions.
        score: Official scores of the predictions.
        examples: Examples of the predictions.

    Raises:
        InputError: The predictions file cannot be read.
    """
    value = score.metrics[task.primary_metric]
    return ExampleScores(
        predictions_sha256=_sha256(path),
        metric=task.primary_metric,
        scores=dict(score.per_example),
        value=float(value) if isinstance(value, int | float) else None,
        averaged=None if score.averaged is None else dict(score.averaged),
        clusters=find_clusters(task, examples),
    )


def read_example_scores(path: Path, task: Task) -> ExampleScores | None:
    """Return the per-example scores of predictions, on the official scale.

    Args:
        path: Predictions file.
        task: Task of the predictions.

    Returns:
        The scores; `None` if they are missing or damaged, or belong to other predictions or another
        metric.

    Raises:
        InputError: The predictions file cannot be read.
    """
    try:
        content = read_json(_scores_file(path), expected="per-example scores")
        found = ExampleScores.read_leniently(content)
    except (InputError, OSError, ValidationError):
        return None
    is_current = found.metric == task.primary_metric and found.predictions_sha256 == _sha256(path)
    return found if is_current else None


def _scores_file(path: Path) -> Path:
    return path.with_suffix(".scores.json")


def _sha256(path: Path) -> str:
    with open_regular(
        path, expected="predictions", max_bytes=MAX_TEXT_BYTES, read_again=True
    ) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
