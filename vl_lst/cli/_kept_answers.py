"""What a run keeps of its answers to a split: predictions and their per-example scores."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.errors import InputError
from eval.leaderboard.runs import Run
from eval.metrics import Metric
from eval.recipe_fields import get_field
from eval.run_files import ExampleScores
from eval.statistics.estimates import Estimate, estimate_score
from eval.statistics.kept_scores import kept_sample
from tasks import Task
from vl_lst.runs.predictions import predictions_file, read_example_scores
from vl_lst.task_settings import configure_task

__all__ = [
    "KeptAnswers",
    "MissingPredictionsError",
    "estimate_kept",
    "read_kept_answers",
    "read_kept_scores",
]


class MissingPredictionsError(InputError):
    """A run has no predictions of a split."""


@dataclass(frozen=True, slots=True)
class KeptAnswers:
    """The predictions of a run on a split, with their scores if they were kept.

    Args:
        task: The task, as configured for the run.
        path: Predictions file.
        data_root: Folder of the annotations.
        predictions: Predictions by example ID.
        scores: Per-example scores; `None` if they were not kept, or are of other predictions.
    """

    task: Task
    path: Path
    data_root: Path
    predictions: Mapping[str, str]
    scores: ExampleScores | None


def read_kept_answers(run: Run, name: str, split: str) -> KeptAnswers:
    """Read the predictions of a run and their scores.

    Args:
        run: The run.
        name: Name of the task.
        split: Name of the split.

    Raises:
        MissingPredictionsError: There are no predictions.
        InputError: The predictions cannot be read.
        OSError: A file cannot be read.
    """
    task, path = _find(run, name, split)
    # A file that exists and cannot be read is reported when it is read.
    if not os.path.lexists(path):
        raise MissingPredictionsError(
            f"{run.name} has no predictions of {name} {split}: run `vl-lst evaluate {run.folder} "
            f"--task {name} --split {split}` to make them"
        )
    root = get_field(run.record.recipe, ("data", "root"))
    predictions = task.read_predictions(path)
    scores = read_example_scores(path, task)
    if scores is not None and scores.scores.keys() != predictions.keys():
        scores = None
    return KeptAnswers(task, path, Path(root if isinstance(root, str) else ""), predictions, scores)


def read_kept_scores(run: Run, name: str, split: str) -> ExampleScores | None:
    """Return the per-example scores that a run kept with its predictions, if it did.

    Args:
        run: The run.
        name: Name of the task.
        split: Name of the split.
    """
    task, path = _find(run, name, split)
    try:
        return read_example_scores(path, task)
    except (InputError, OSError):
        return None


def estimate_kept(kept: ExampleScores | None, metric: Metric, recorded: object) -> Estimate | None:
    """Return a score with its variance.

    Args:
        kept: Per-example scores of the run, if there are any.
        metric: Primary metric of the task.
        recorded: The score in the run's record, on the official scale, if it is a number.

    Returns:
        The estimate; `None` if there are no per-example scores, or they are not those of the
        recorded score.
    """
    if kept is None or not isinstance(recorded, int | float):
        return None
    sample = kept_sample(kept, metric, recorded)
    return None if sample is None else estimate_score([sample])


def _find(run: Run, name: str, split: str) -> tuple[Task, Path]:
    task = configure_task(run.record.recipe, name)
    return task, predictions_file(run.folder, task, split)
