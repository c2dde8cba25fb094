"""The examples of a split with the answers of a run, read for the leaderboard page."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.errors import InputError
from eval.leaderboard.runs import Run
from eval.recipe_fields import get_field
from eval.report.example_data import RunAnswers, SplitExamples
from eval.run_files import ExampleScores
from eval.statistics.estimates import Estimate, estimate_score
from eval.statistics.kept_scores import kept_sample
from tasks import ExampleTable, Task
from vl_lst.runs.predictions import predictions_file, read_example_scores
from vl_lst.task_settings import configure_task

__all__ = ["AnsweredSplit", "SplitReader", "kept_scores"]

MAX_REFERENCES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class AnsweredSplit:
    """The examples of a split, and what a run answers.

    Args:
        examples: Examples.
        packed: Their block for the page.
        answers: Answers of the run.
        estimate: Score of the run with its variance; `None` if the per-example scores were not
            kept, or are not those of the recorded score.
    """

    examples: SplitExamples
    packed: str
    answers: RunAnswers
    estimate: Estimate | None


class SplitReader:
    """Reads what runs answered, and the examples of each split only once for several runs."""

    def __init__(self) -> None:
        self._key_of_task: dict[str, str] = {}
        self._examples: dict[str, tuple[SplitExamples, str]] = {}

    def read(self, run: Run, name: str, split: str) -> AnsweredSplit:
        """Read the examples of a split and the answers of a run.

        Args:
            run: The run.
            name: Name of the task.
            split: Name of the split.

        Raises:
            InputError: There are no predictions, or the predictions, their scores or the
                annotations cannot be read.
            OSError: A file cannot be read.
        """
        task = configure_task(run.record.recipe, name)
        path = predictions_file(run.folder, task, split)
        # A file that exists and cannot be read is reported when it is read.
        if not os.path.lexists(path):
            raise InputError(
                f"No predictions of {split}. Run `vl-lst evaluate {run.folder} --task {name} "
                f"--split {split}` to make them."
            )
        try:
            root = get_field(run.record.recipe, ("data", "root"))
            data_root = Path(root if isinstance(root, str) else "")
            predictions = task.read_predictions(path)
            examples, packed = self._read_examples(run, task, data_root, split)
            kept = read_example_scores(path, task)
            percents = _percents(task, kept, predictions, data_root, examples)
        except (InputError, OSError) as error:
            raise InputError(f"The examples cannot be shown: {error}") from None
        answers = RunAnswers([predictions.get(id_, "") for id_ in examples.ids], percents)
        return AnsweredSplit(examples, packed, answers, _estimate(run, task, split, kept))

    def _read_examples(
        self, run: Run, task: Task, data_root: Path, split: str
    ) -> tuple[SplitExamples, str]:
        # The examples depend on the files that the recipe names; their texts are without prefixes.
        key = json.dumps([task.name, split, run.record.recipe.get("data")], default=str)
        if key not in self._examples:
            # Only the last one of a task is kept: large splits take gigabytes.
            self._examples.pop(self._key_of_task.get(task.name, ""), None)
            self._key_of_task[task.name] = key
            examples = split_examples(task, split, task.load(data_root, split))
            self._examples[key] = examples, examples.pack()
        return self._examples[key]


def kept_scores(run: Run, name: str, split: str) -> ExampleScores | None:
    """Return the per-example scores that a run kept with its predictions, if it did.

    Args:
        run: Run.
        name: Name of the task.
        split: Name of the split.
    """
    task = configure_task(run.record.recipe, name)
    try:
        return read_example_scores(predictions_file(run.folder, task, split), task)
    except (InputError, OSError):
        return None


def split_examples(task: Task, split: str, table: ExampleTable) -> SplitExamples:
    """Return the examples of a split as the page shows them.

    Args:
        task: Task.
        split: Name of the split.
        table: Examples.
    """
    prompts, references, image_ids = [], [], []
    for example in table:
        prompts.append(_text_by_lines(task, example.text))
        references.append(example.answers[:MAX_REFERENCES_SHOWN])
        image_ids.append(example.image_ids)
    return SplitExamples(
        task.name, split, table.ids(), prompts, references, image_ids, is_graded=task.is_graded
    )


def _percents(
    task: Task,
    kept: ExampleScores | None,
    predictions: Mapping[str, str],
    data_root: Path,
    examples: SplitExamples,
) -> Sequence[float | None]:
    """Return the score of each example, scored again if the scores were not kept.

    Captions are not: their scores need a program that may not be installed.
    """
    scores: Mapping[str, float] = {} if kept is None else kept.scores
    if scores.keys() != set(examples.ids):
        if not examples.is_graded:
            return [None] * len(examples.ids)
        scores = task.score(predictions, data_root, examples.split).per_example
    return [task.metric.percent(scores[id_]) if id_ in scores else None for id_ in examples.ids]


def _estimate(run: Run, task: Task, split: str, kept: ExampleScores | None) -> Estimate | None:
    recorded = run.record.scores.get(task.name, {}).get(split, {}).get(task.metric.name)
    if kept is None or not isinstance(recorded, int | float):
        return None
    sample = kept_sample(kept, task.metric, recorded)
    return None if sample is None else estimate_score([sample])


def _text_by_lines(task: Task, text: str) -> str:
    """Return the text of a prompt with each of the task's texts on its own line."""
    for label in task.text_format.split("{}")[1:-1]:
        text = text.replace(label, f"\n{label.lstrip()}", 1)
    return text
