"""A user's own examples in the format of a task, one JSON object per line (JSONL).

    {"id": "kitchen-1", "images": ["kitchen.jpg"], "prompt": "what is red?", "answers": ["a cup"]}

id       string or integer, different on each line
images   file names of the photographs, or image IDs of the feature file (names without suffix);
         as many as the task takes
prompt   question or statement, without the task's prefix; omitted for tasks that take no text
answers  human answers; omitted on all lines if there are none

`with_own_files` replaces the official splits of a task by such files.
"""

import hashlib
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from eval.agreement import OFFICIAL_PEOPLE, agreement, agreement_weights
from eval.caption import score_captions
from eval.errors import FileFormatError, InputError, PredictionError
from eval.image_suffixes import IMAGE_SUFFIXES
from eval.intervals import accuracy_in_context
from eval.submissions import first_five, require_predictions, require_same_ids
from tasks._arguments import as_path
from tasks._arrow import cached_examples
from tasks._examples import Example, ExampleTable
from tasks._formatting import FormattingLosses, exact_match
from tasks._records import Records, read_json_lines
from tasks._results import TEXT_RESULTS, text_id
from tasks._task import Score, Task

__all__ = ["load_own_examples", "score_own_predictions", "with_own_files"]

FIELDS = ("id", "images", "prompt", "answers")
EXPECTED = 'examples, {"id": ..., "images": [...], "prompt": ..., "answers": [...]}'


def with_own_files(task: Task, files: Mapping[str, str | Path]) -> Task:
    """Return the task with a user's files as its splits.

    Its `load` and `score` ignore the data root, and predictions are a list of `{"id", "answer"}`.
    It has no official answer list, submission or strict scoring. Answer lists keep all answers by
    default.

    Args:
        task: The task whose format the examples have.
        files: {split: JSONL file}. By default the first is for training and the second for
            validation.

    Raises:
        InputError: `task` is not a `Task`, or `files` is not a dictionary of splits and files.
    """
    _require_task(task)
    paths = _paths_of(files)

    def file_of(split: str) -> Path:
        if split not in paths:
            raise InputError(
                f"no file was given for {split!r:.60}: expected one of: {', '.join(paths)}"
            )
        return paths[split]

    def read_examples(data_root: Path, split: str) -> ExampleTable:
        return _read_examples(file_of(split), task)

    def score(predictions: Mapping[str, str], data_root: Path, split: str) -> Score:
        return score_own_predictions(predictions, file_of(split), task)

    return replace(
        task,
        splits=tuple(paths),
        read_examples=read_examples,
        score=score,
        read_predictions=partial(_read_predictions, task),
        write_predictions=partial(_write_predictions, task),
        score_strictly=None,
        answer_list=None,
        # Users' own data often have few examples.
        min_answer_count=1,
        predictions_suffix=".json",
        files=(),
        sizes={},
        submission=None,
        prepare=None,
    )


def load_own_examples(path: str | Path, task: Task) -> ExampleTable:
    """Load a JSONL file as examples of a task, with its prefix and suffix around each prompt.

    Args:
        path: The JSONL file.
        task: The task whose format the examples have.

    Raises:
        InputError: There is no such file.
        FileFormatError: A line has another format; the message gives its number.
    """
    _require_task(task)
    path = as_path("the file of examples", path)
    return _read_examples(path, task).with_prompt(task.prompt_prefix, task.prompt_suffix)


def _read_examples(path: Path, task: Task) -> ExampleTable:
    if not path.exists():
        raise InputError(f"no file {path}: expected {EXPECTED} there, one per line")

    def examples() -> Iterator[Example]:
        lines = _Lines(path, task)
        for position, id_ in enumerate(lines.ids):
            answers = lines.answers(position)
            yield Example(
                id=id_,
                image_ids=lines.image_ids(position),
                prompt=lines.prompt(position),
                targets=_targets(answers, task),
            )

    # Prompts may already begin with the prefix, which is removed, so it affects what is cached.
    prefix = hashlib.sha256(task.prompt_prefix.encode()).hexdigest()[:8]
    return cached_examples(f"{task.name}-own-{prefix}", [path], examples)


def score_own_predictions(predictions: Mapping[str, str], path: str | Path, task: Task) -> Score:
    """Score predictions against the answers of a JSONL file with the task's primary metric.

    Args:
        predictions: {example ID: answer}.
        path: The examples, with answers.
        task: The task whose format the examples have.

    Raises:
        InputError: There is no such file, or the examples have no answers.
        FileFormatError: A line has another format; the message gives its number.
        PredictionError: Predictions are missing or extra.
    """
    _require_task(task)
    path = as_path("the file of examples", path)
    lines = _Lines(path, task)
    require_same_ids(lines.ids, require_predictions(predictions))
    answers = {id_: lines.answers(position) for position, id_ in enumerate(lines.ids)}
    if not all(answers.values()):
        raise InputError(f"{path} has no answers to score against; add answers, or only predict")
    if task.answers_are == "references":
        return _caption_score(predictions, answers, task)
    scale = task.metric.scale
    accuracy = agreement if task.answers_are == "people" else exact_match
    # Models may give other answers than the task's words; these are wrong.
    predictions = {id_: _normalise(text, task) or "" for id_, text in predictions.items()}
    losses = FormattingLosses()
    per_example = {}
    for id_, given in answers.items():
        per_example[id_] = scale * accuracy(predictions[id_], given)
        losses.add(predictions[id_], given, accuracy)
    metrics: dict[str, object] = {task.primary_metric: statistics.fmean(per_example.values())}
    if task.answers_are == "label":
        metrics |= accuracy_in_context(
            [each == scale for each in per_example.values()],
            [given[0] for given in answers.values()],
            scale=scale,
        )
    return Score(
        metrics=metrics,
        examples=len(per_example),
        per_example=per_example,
        protocol=_protocol(answers, task),
        notes=losses.notes(),
    )


def _require_task(task: object) -> None:
    if not isinstance(task, Task):
        raise InputError(
            f"task is {task!r:.60} ({type(task).__name__}): expected a Task, such as "
            "get_task('vqa')"
        )


def _paths_of(files: Any) -> dict[str, Path]:
    if not isinstance(files, Mapping) or not files or not all(map(_is_name, files)):
        raise InputError(
            f"the files of examples are {files!r:.60}: expected a dictionary of splits and files, "
            "such as {'train': 'train.jsonl', 'val': 'val.jsonl'}"
        )
    return {split: as_path(f"the file of {split}", path) for split, path in files.items()}


def _is_name(split: object) -> bool:
    return isinstance(split, str) and bool(split.strip())


def _caption_score(
    predictions: Mapping[str, str], answers: Mapping[str, list[str]], task: Task
) -> Score:
    scores = score_captions(predictions, answers)
    return Score(
        metrics=scores.metrics,
        examples=len(answers),
        per_example=scores.per_image.get(task.primary_metric, {}),
        protocol=f"{task.name} own data, coco_captions rules",
        reasons=scores.reasons,
    )


def _protocol(answers: Mapping[str, list[str]], task: Task) -> str:
    if task.answers_are == "label":
        return f"{task.name} own data, exact match"
    others = sum(len(given) != OFFICIAL_PEOPLE for given in answers.values())
    by_share = f"; {others:,} questions without {OFFICIAL_PEOPLE} answers by share of people"
    return f"{task.name} own data, vqa_v2 rules{by_share if others else ''}"


def _targets(answers: list[str], task: Task) -> tuple[tuple[str, float], ...]:
    if answers and task.answers_are == "people":
        return tuple(agreement_weights(answers))
    return tuple((answer, 1.0) for answer in answers)


class _Lines:
    """The lines of one file. Each field is checked when it is read."""

    def __init__(self, path: Path, task: Task) -> None:
        self._task = task
        self._records = read_json_lines(path, expected=EXPECTED)
        if not len(self._records):
            raise FileFormatError(f"{path} contains no examples; expected at least one line")
        self._problem = self._records.problem
        self.ids = _text_ids(self._records)
        self._has_answers = "answers" in self._records.rows[0]

    def image_ids(self, position: int) -> tuple[str, ...]:
        images = self._texts(position, "images")
        if len(images) != self._task.images_per_example:
            raise self._problem(
                position,
                f"has {len(images)} images; {self._task.name} takes "
                f"{self._task.images_per_example} per example",
            )
        ids = tuple(map(_image_id, images))
        if "" in ids:
            raise self._problem(
                position, f"has the image {images[ids.index('')]!r:.60}; expected a file name"
            )
        return ids

    def prompt(self, position: int) -> str:
        prefix = self._task.prompt_prefix
        given = "prompt" in self._records.rows[position]
        if self._task.answers_are == "references":
            if given:
                raise self._problem(
                    position,
                    f"has a prompt; {self._task.name} takes none: leave the field out",
                )
            return ""
        self._require(position, "prompt")
        prompt = self._records.field(position, "prompt", str)
        if not prompt.strip():
            raise self._problem(position, "has an empty prompt; expected a question or statement")
        return prompt.removeprefix(prefix)

    def answers(self, position: int) -> list[str]:
        given = "answers" in self._records.rows[position]
        if not self._has_answers and not given:
            self._require_no_other(position, "answers")
            return []
        if given != self._has_answers:
            raise self._problem(
                position,
                f"has {'' if given else 'no '}answers, unlike line 1; expected answers on all "
                "lines or on none",
            )
        answers = self._texts(position, "answers")
        if not answers:
            raise self._problem(position, "has no answer in 'answers'; expected at least one")
        if self._task.answers_are == "label" and len(answers) > 1:
            raise self._problem(
                position, f"has {len(answers)} answers; {self._task.name} takes one correct answer"
            )
        return [self._allowed(position, answer) for answer in answers]

    def _allowed(self, position: int, answer: str) -> str:
        if (normalised := _normalise(answer, self._task)) is None:
            raise self._problem(
                position, f"has the answer {answer!r:.40}; expected {_listed_words(self._task)}"
            )
        return normalised

    def _texts(self, position: int, name: str) -> list[str]:
        self._require(position, name)
        values = self._records.field(position, name, list)
        for value in values:
            if not isinstance(value, str) or not value.strip():
                raise self._problem(
                    position, f"has {value!r:.40} in {name!r}; expected non-empty strings"
                )
        return values

    def _require(self, position: int, name: str) -> None:
        if name not in self._records.rows[position]:
            self._require_no_other(position, name)
            raise self._problem(position, f"has no {name!r}; expected {EXPECTED}")

    def _require_no_other(self, position: int, absent: str) -> None:
        """Refuse unknown fields if a known one is absent: most likely one is misspelled."""
        if others := [name for name in self._records.rows[position] if name not in FIELDS]:
            raise self._problem(
                position, f"has no {absent!r}, but {first_five(others)}; expected {EXPECTED}"
            )


def _normalise(answer: str, task: Task) -> str | None:
    """Return the form in which answers are compared, for labels and predictions alike.

    Returns:
        The answer; `None` if it is not one of the task's answer words.
    """
    text = answer.strip()
    words = task.answer_words
    if words is None:
        return text
    # The official files have "True".
    return text.lower() if text in (*words, *map(str.capitalize, words)) else None


def _listed_words(task: Task) -> str:
    return " or ".join(map(repr, task.answer_words or ()))


def _read_predictions(task: Task, path: Path) -> dict[str, str]:
    predictions = TEXT_RESULTS.read(path)
    for id_, answer in predictions.items():
        # An empty string means that there is no answer.
        if answer and _normalise(answer, task) is None:
            raise PredictionError(
                f"{path}: the prediction of {id_!r:.60} is {answer!r:.40}; expected "
                f"{_listed_words(task)}, or '' for no answer"
            )
    return predictions


def _write_predictions(task: Task, predictions: Mapping[str, str], path: Path) -> None:
    if task.answer_words is not None:
        predictions = {id_: _normalise(text, task) or "" for id_, text in predictions.items()}
    TEXT_RESULTS.write(predictions, path)


def _text_ids(records: Records) -> list[str]:
    ids = [text_id(records, position) for position in range(len(records))]
    first_line: dict[str, int] = {}
    for position, id_ in enumerate(ids):
        if first_line.setdefault(id_, position) != position:
            raise records.problem(
                position,
                f"has the ID {id_!r:.60} of line {first_line[id_] + 1}; expected a different ID",
            )
        if not id_.strip():
            raise records.problem(position, "has an empty ID; expected a string or an integer")
    return ids


def _image_id(name: str) -> str:
    # Windows separates folders by backslashes.
    file = PurePosixPath(name.replace("\\", "/"))
    # Other suffixes ("v1.2") are part of the name.
    return file.stem if file.suffix.lower() in IMAGE_SUFFIXES else file.name
