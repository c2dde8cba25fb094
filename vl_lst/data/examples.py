"""The examples and features of a run, checked before anything long begins."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.errors import InputError
from eval.submissions import first_five
from feature_extraction.errors import StoreError
from feature_extraction.names import near_names_hint
from feature_extraction.store.reader import FeatureReader
from tasks import ExampleTable, Task
from tasks._answers import build_answer_list, load_answer_list
from vl_lst.recipes import Recipe

__all__ = [
    "answer_list_file",
    "has_labels",
    "ids_digest",
    "read_answers",
    "require_images",
    "require_labels",
    "usable_rows",
]


def has_labels(examples: ExampleTable) -> bool:
    """Whether any example has a target."""
    return any(example.targets for example in examples)


def require_labels(task: Task, split: str, examples: ExampleTable) -> None:
    """Refuse a split that cannot train or validate.

    Raises:
        InputError: No example has a target.
    """
    if not has_labels(examples):
        raise InputError(
            f"the split {split} of {task.name} has no labels, so it can neither train nor "
            "validate; choose another for data.train_split or data.validation_split, or add "
            "answers where it is a file of your own"
        )


def usable_rows(examples: ExampleTable) -> NDArray[np.int64]:
    """Rows of the examples that have an answer to generate.

    Raises:
        InputError: There are none.
    """
    rows = [
        row
        for row, example in enumerate(examples)
        if any(weight > 0 for _, weight in example.targets)
    ]
    if not rows:
        raise InputError("no training example has an answer with a weight above zero")
    return np.array(rows)


def require_images(reader: FeatureReader, split: str, examples: ExampleTable) -> None:
    """Refuse a split some of whose images have no features.

    Raises:
        StoreError: With how many there are and how to extract them.
    """
    needed = examples.image_ids()
    missing = reader.missing(needed)
    if missing:
        failures = reader.failures
        failed = sum(image_id in failures for image_id in missing)
        hint = near_names_hint((i for i in missing if i not in failures), reader)
        unreadable = f", {failed:,} of which could not be read" if failed else ""
        advice = (
            "Replace their files and run the command that extracts the features again, or leave "
            "out the examples."
            if failed == len(missing)
            else f"Extract {'images that are not there' if hint else 'them'} with `vl-lst "
            "extract-features --images FOLDER --out MORE.h5` and add --features MORE.h5."
        )
        raise StoreError(
            f"{len(missing):,} of the {len(needed):,} images of {split} have no features"
            f"{unreadable} (first: {first_five(missing)}).{hint} {advice}"
        )


def read_answers(recipe: Recipe, task: Task, train: ExampleTable) -> list[str] | None:
    """The list a task's answers are from, `None` where it may generate any.

    It is the recipe's file, else the few words the task knows, else the task's official file below
    the data root, else counted from the training examples.

    Raises:
        InputError: The file is missing, or no answer is frequent enough.
    """
    constrained = recipe.generation.constrain_to_answers and "classify" in task.heads
    if recipe.head[task.name] == "generate" and not constrained:
        return None
    chosen = answer_list_file(recipe, task)
    if chosen is not None:
        return load_answer_list(chosen)
    if task.answer_words is not None:
        return list(task.answer_words)
    return build_answer_list(train, recipe.data.min_answer_count[task.name])


def answer_list_file(recipe: Recipe, task: Task) -> Path | None:
    """The file that a task's answer list is read from, `None` where there is none."""
    chosen: Path | None = recipe.data.answer_list[task.name]
    if chosen is not None or task.answer_words is not None or task.answer_list is None:
        return chosen
    official = recipe.data.folder / task.answer_list
    return official if official.is_file() else None


def ids_digest(examples: ExampleTable) -> str:
    """SHA-256 of the example ids, in order."""
    digest = hashlib.sha256()
    for example_id in examples.ids():
        digest.update(f"{example_id}\n".encode())
    return digest.hexdigest()
