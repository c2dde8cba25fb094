"""Examples of a run, checked before training or prediction."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.errors import InputError
from eval.submissions import first_five
from feature_extraction.errors import StoreError
from feature_extraction.names import near_names_hint
from feature_extraction.store.reader import FeatureReader
from tasks import Example, ExampleTable, Task
from vl_lst.data.answer_lists import load_answers
from vl_lst.data.targets import require_numbers
from vl_lst.recipes import Recipe

__all__ = [
    "TaskExamples",
    "examples_digest",
    "has_labels",
    "load_examples",
    "require_answers",
    "require_images",
    "require_labels",
    "rows_with_answers",
]


@dataclass(frozen=True, slots=True)
class TaskExamples:
    """Training and validation examples of a task, checked.

    Args:
        task: The task, as configured for the run.
        train: Training split.
        validation: Validation split.
        answers: Answer list; `None` if the model may generate any answer.
    """

    task: Task
    train: ExampleTable
    validation: ExampleTable
    answers: list[str] | None


def load_examples(recipe: Recipe, name: str, reader: FeatureReader | None) -> TaskExamples:
    """Load the training and validation examples of a task.

    Args:
        recipe: Recipe of the run.
        name: Name of the task.
        reader: Image features; `None` if no task of the run has images.

    Raises:
        InputError: The annotations are not usable, a split has no labels or ones that the head
            cannot give, or the validation metric cannot be computed on this machine.
        StoreError: Images have no features.
    """
    task, data = recipe.configured_task(name), recipe.data
    if task.require_evaluator is not None:
        task.require_evaluator()
    loaded = []
    for split, own_file in (
        (data.train_split[name], data.train_file[name]),
        (data.validation_split[name], data.validation_file[name]),
    ):
        examples = task.load(data.folder, split)
        source = str(own_file or split)
        require_labels(task, source, examples)
        if recipe.head[name] == "regress":
            assert task.value_range is not None, "a task with such a head has a range"
            require_numbers(source, examples, task.value_range)
        if reader is not None and not data.blind:
            require_images(reader, source, examples)
        loaded.append(examples)
    train, validation = loaded
    return TaskExamples(task, train, validation, load_answers(recipe, task, lambda: train))


def has_labels(examples: ExampleTable) -> bool:
    """Return whether any example has a target."""
    return any(example.targets for example in examples)


def require_labels(task: Task, split: str, examples: ExampleTable) -> None:
    """Require that a split can train or validate.

    Args:
        task: Task of the split.
        split: Name of the split, for the message.
        examples: Examples of the split.

    Raises:
        InputError: No example has a target.
    """
    if not has_labels(examples):
        raise InputError(
            f"the split {split} of {task.name} has no labels, so it can neither train nor "
            "validate. Choose another split for data.train_split or data.validation_split, or add "
            "answers to your own file."
        )


def require_images(reader: FeatureReader, split: str, examples: ExampleTable) -> None:
    """Require that all images of a split have features.

    Args:
        reader: Image features.
        split: Name of the split, for the message.
        examples: Examples of the split.

    Raises:
        StoreError: Some images have none.
    """
    needed = examples.image_ids()
    missing = reader.missing(needed)
    if missing:
        failures = reader.failures
        failed = sum(image_id in failures for image_id in missing)
        hint = near_names_hint((i for i in missing if i not in failures), reader)
        unreadable = f", {failed:,} of which could not be read" if failed else ""
        advice = (
            "Replace their files and extract the features again with the same command, or leave "
            "out the examples."
            if failed == len(missing)
            else f"Extract {'missing images' if hint else 'them'} with `vl-lst "
            "extract-features --images FOLDER --out MORE.h5` and add --features MORE.h5."
        )
        raise StoreError(
            f"{len(missing):,} of the {len(needed):,} images of {split} have no features"
            f"{unreadable} (first: {first_five(missing)}).{hint} {advice}"
        )


def rows_with_answers(examples: ExampleTable) -> NDArray[np.int64]:
    """Return the rows of the examples that have an answer to generate.

    Raises:
        InputError: No example has one.
    """
    require_answers(examples)
    return np.array([row for row, example in enumerate(examples) if _has_answer(example)])


def require_answers(examples: Iterable[Example]) -> None:
    """Refuse training examples without any answer; reads only up to the first answer.

    Raises:
        InputError: No example has an answer with a weight above zero.
    """
    if not any(map(_has_answer, examples)):
        raise InputError("no training example has an answer with a weight above zero")


def _has_answer(example: Example) -> bool:
    return any(weight > 0 for _, weight in example.targets)


def examples_digest(task: Task, examples: ExampleTable) -> str:
    """Return the SHA-256 of the example ids, in order.

    Ids of texts are often line numbers, which do not identify an example. The digest of a task
    without images is also that of texts and answers, without the prefix and suffix of prompts.
    """
    digest = hashlib.sha256()
    if task.images_per_example:
        for example_id in examples.ids():
            digest.update(f"{example_id}\n".encode())
    else:
        for example in examples:
            fields = (example.id, example.text, example.targets)
            digest.update(f"{json.dumps(fields)}\n".encode())
    return digest.hexdigest()
