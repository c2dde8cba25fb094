"""Examples on which two runs differ, read from their predictions and the annotations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.errors import InputError
from eval.leaderboard.runs import Run
from eval.metrics import MIN_PERCENT_IF_RIGHT
from eval.run_files import ExampleScores
from tasks import ExampleTable, Task
from vl_lst.cli._kept_answers import read_kept_answers
from vl_lst.runs.predictions import score_examples

__all__ = ["Answers", "DifferingExample", "count_only_right", "find_differing", "read_answers"]

MAX_ANSWERS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Answers:
    """The predictions of one run on one split, with their scores.

    Args:
        task: The task, as configured for the run.
        split: Name of the split.
        data_root: Folder of the annotations.
        predictions: Predictions by example ID.
        kept: Their scores.
    """

    task: Task
    split: str
    data_root: Path
    predictions: Mapping[str, str]
    kept: ExampleScores

    def percent(self, id_: str) -> float:
        """Return the score of an example in percent."""
        return self.task.metric.percent(self.kept.scores[id_])

    def is_right(self, id_: str) -> bool:
        """Return whether an example is answered right."""
        return self.percent(id_) >= MIN_PERCENT_IF_RIGHT


@dataclass(frozen=True, slots=True)
class DifferingExample:
    """An example on which two runs differ.

    Args:
        id: Official ID.
        prompt: Prompt without the task's prefix; `None` if the annotations cannot be read.
        answers: Correct answers, best first; empty if the annotations cannot be read.
        predictions: Prediction of each run.
        scores: Score of each run in percent.
    """

    id: str
    prompt: str | None
    answers: tuple[str, ...]
    predictions: tuple[str, str]
    scores: tuple[float, float]


def read_answers(run: Run, name: str, split: str) -> Answers:
    """Read the predictions of a run, and score them again if their scores were not kept.

    Args:
        run: The run.
        name: Name of the task.
        split: Name of the split.

    Raises:
        MissingPredictionsError: There are no predictions.
        InputError: They cannot be read or scored.
    """
    found = read_kept_answers(run, name, split)
    task, data_root, kept = found.task, found.data_root, found.scores
    if kept is None or kept.clusters is None:
        score = task.score(found.predictions, data_root, split)
        kept = score_examples(found.path, task, score, task.load(data_root, split))
    return Answers(task, split, data_root, found.predictions, kept)


def count_only_right(first: Answers, second: Answers) -> tuple[int, int] | None:
    """Return how many examples only the first and only the second run answers right.

    Returns:
        The numbers; `None` if answers are not graded individually.
    """
    if not first.task.is_graded:
        return None
    ids = _differing_ids(first, second)
    firsts = sum(map(first.is_right, ids))
    return firsts, len(ids) - firsts


def find_differing(first: Answers, second: Answers, limit: int) -> tuple[DifferingExample, ...]:
    """Return examples that one run answers right and the other wrong, or scores of which differ.

    Args:
        first: Answers of the first run.
        second: Answers of the second run to the same examples.
        limit: Maximum number of examples. Half of them are right in the first run, if possible, and
            come first; they are spread over the split. Captions are in the order of how much their
            scores differ.
    """
    ids = _differing_ids(first, second)
    if first.task.is_graded:
        better = [id_ for id_ in ids if first.is_right(id_)]
        worse = [id_ for id_ in ids if not first.is_right(id_)]
        num_better = max(limit - len(worse), min(len(better), (limit + 1) // 2))
        chosen = [*_spread(better, num_better), *_spread(worse, limit - num_better)]
    else:
        chosen = sorted(ids, key=lambda id_: -abs(first.percent(id_) - second.percent(id_)))[:limit]
    texts = _texts(first, chosen)
    return tuple(
        DifferingExample(
            id=id_,
            prompt=texts[id_][0] if id_ in texts else None,
            answers=texts[id_][1] if id_ in texts else (),
            predictions=(first.predictions[id_], second.predictions[id_]),
            scores=(first.percent(id_), second.percent(id_)),
        )
        for id_ in chosen
    )


def _differing_ids(first: Answers, second: Answers) -> list[str]:
    if first.task.is_graded:
        return [id_ for id_ in first.kept.scores if first.is_right(id_) != second.is_right(id_)]
    return [id_ for id_ in first.kept.scores if first.percent(id_) != second.percent(id_)]


def _spread(ids: Sequence[str], count: int) -> list[str]:
    if count >= len(ids):
        return list(ids)
    return [ids[number * len(ids) // count] for number in range(count)]


def _texts(answers: Answers, ids: Sequence[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the prompt and the correct answers of examples; none if they cannot be read."""
    if not ids:
        return {}
    try:
        examples: ExampleTable = answers.task.load(answers.data_root, answers.split)
        position = {id_: index for index, id_ in enumerate(examples.ids())}
    except (InputError, OSError):
        return {}
    texts = {}
    for id_ in ids:
        if id_ in position:
            example = examples[position[id_]]
            texts[id_] = (example.text, example.answers[:MAX_ANSWERS_SHOWN])
    return texts
