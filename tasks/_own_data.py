"""A user's own examples in the format of a task, one JSON object per line (JSONL).

    {"id": "kitchen-1", "images": ["kitchen.jpg"], "prompt": "what is red?", "answers": ["a cup"]}

id       string or integer, different on each line
images   file names of the photographs, or image IDs of the feature file (names without suffix);
         as many as the task takes; omitted for tasks without images
prompt   question or statement, without the task's prefix; omitted for tasks that take no text;
         a list of texts for tasks that take several
answers  human answers; omitted on all lines if there are none

`with_own_files` replaces the official splits of a task by such files.
"""

import hashlib
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from eval.agreement import OFFICIAL_PEOPLE, agreement, agreement_weights
from eval.errors import InputError, PredictionError
from eval.intervals import accuracy_in_context
from eval.submissions import require_predictions, require_same_ids
from eval.text import did_you_mean
from tasks._arguments import as_path
from tasks._arrow import cached_examples
from tasks._examples import Example, ExampleTable
from tasks._formatting import FormattingLosses, exact_match
from tasks._own_lines import OwnLines, describe_answers, describe_lines, normalise_answer
from tasks._results import TEXT_RESULTS
from tasks._task import Score, Task

__all__ = ["load_own_examples", "score_own_predictions", "with_own_files"]


def with_own_files(task: Task, files: Mapping[str, str | Path]) -> Task:
    """Return the task with a user's files as its splits.

    Its `load` and `score` ignore the data root, and predictions are a list of `{"id", "answer"}`;
    those of GLUE's tasks may also be a file of the test server's format.
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
                f"{did_you_mean(split, paths)}"
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
        cluster_of=None,
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
        raise InputError(f"no file {path}: expected {describe_lines(task)} there, one per line")

    def examples() -> Iterator[Example]:
        lines = OwnLines(path, task)
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
    lines = OwnLines(path, task)
    require_same_ids(lines.ids, require_predictions(predictions))
    answers = {id_: lines.answers(position) for position, id_ in enumerate(lines.ids)}
    if not all(answers.values()):
        raise InputError(f"{path} has no answers to score against; add answers, or only predict")
    if task.answers_are == "references":
        return _caption_score(predictions, answers, task)
    if task.score_answers is not None:
        single = {id_: given[0] for id_, given in answers.items()}
        protocol = f"{task.name} own data, official metrics"
        return task.score_answers(predictions, single, protocol=protocol)
    scale = task.metric.scale
    accuracy = agreement if task.answers_are == "people" else exact_match
    # Models may give other answers than the task's words; these are wrong.
    predictions = {id_: normalise_answer(text, task) or "" for id_, text in predictions.items()}
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
    # Running Java programs needs modules that other tasks, and help texts, do not.
    from eval.caption import score_captions

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


def _read_predictions(task: Task, path: Path) -> dict[str, str]:
    if task.score_answers is not None:
        return task.read_predictions(path)
    predictions = TEXT_RESULTS.read(path)
    for id_, answer in predictions.items():
        # An empty string means that there is no answer.
        if answer and normalise_answer(answer, task) is None:
            raise PredictionError(
                f"{path}: the prediction of {id_!r:.60} is {answer!r:.40}; expected "
                f"{describe_answers(task)}, or '' for no answer"
            )
    return predictions


def _write_predictions(task: Task, predictions: Mapping[str, str], path: Path) -> None:
    if task.answer_words is not None and task.score_answers is None:
        predictions = {id_: normalise_answer(text, task) or "" for id_, text in predictions.items()}
    TEXT_RESULTS.write(predictions, path)
