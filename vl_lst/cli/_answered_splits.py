"""The examples of a split with the answers of a run, read for the leaderboard page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.errors import InputError
from eval.leaderboard.runs import Run
from eval.report.example_data import RunAnswers, SplitExamples
from eval.statistics.estimates import Estimate
from tasks import ExampleTable, Task
from vl_lst.cli._kept_answers import (
    KeptAnswers,
    MissingPredictionsError,
    estimate_kept,
    read_kept_answers,
)

__all__ = ["AnsweredSplit", "SplitReader"]

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
            MissingPredictionsError: There are no predictions.
            InputError: The predictions, their scores or the annotations cannot be read.
        """
        try:
            kept = read_kept_answers(run, name, split)
            examples, packed = self._read_examples(run, kept, split)
            percents = _percents(kept, examples)
        except MissingPredictionsError:
            raise
        except (InputError, OSError) as error:
            raise InputError(f"The examples cannot be shown: {error}") from None
        answers = RunAnswers([kept.predictions.get(id_, "") for id_ in examples.ids], percents)
        metric = kept.task.metric
        recorded = run.record.scores.get(name, {}).get(split, {}).get(metric.name)
        estimate = estimate_kept(kept.scores, metric, recorded)
        return AnsweredSplit(examples, packed, answers, estimate)

    def _read_examples(self, run: Run, kept: KeptAnswers, split: str) -> tuple[SplitExamples, str]:
        task = kept.task
        # The examples depend on the files that the recipe names; their texts are without prefixes.
        key = json.dumps([task.name, split, run.record.recipe.get("data")], default=str)
        if key not in self._examples:
            # Only the last one of a task is kept: large splits take gigabytes.
            self._examples.pop(self._key_of_task.get(task.name, ""), None)
            self._key_of_task[task.name] = key
            examples = split_examples(task, split, task.load(kept.data_root, split))
            self._examples[key] = examples, examples.pack()
        return self._examples[key]


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


def _percents(kept: KeptAnswers, examples: SplitExamples) -> Sequence[float | None]:
    """Return the score of each example, scored again if the scores were not kept.

    Captions are not: their scores need a program that may not be installed.
    """
    task = kept.task
    scores: Mapping[str, float] = {} if kept.scores is None else kept.scores.scores
    if scores.keys() != set(examples.ids):
        if not examples.is_graded:
            return [None] * len(examples.ids)
        scores = task.score(kept.predictions, kept.data_root, examples.split).per_example
    return [task.metric.percent(scores[id_]) if id_ in scores else None for id_ in examples.ids]


def _text_by_lines(task: Task, text: str) -> str:
    """Return the text of a prompt with each of the task's texts on its own line."""
    for label in task.text_format.split("{}")[1:-1]:
        text = text.replace(label, f"\n{label.lstrip()}", 1)
    return text
