"""A task with the settings of one run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from eval.recipe_fields import get_field
from tasks import Task, get_task, with_own_files
from tasks._suites import run_of

__all__ = ["configure_task"]

Value = TypeVar("Value", str, int)


def configure_task(recipe: Mapping[str, Any], name: str, *, official: bool = False) -> Task:
    """Return a task with a run's prompt prefix and suffix, length limits, and own files as splits.

    Args:
        recipe: Recipe of the run, as JSON represents it. It may be incomplete or of an earlier
            version: fields that are missing or have another type keep the task's own value.
        name: Name of the task. One that the run was not trained on uses the length limits of the
            run's first task, whose head answers it. If its official files have nothing to train
            on, it also uses the prefix and suffix of the task whose models answer it.
        official: Keep the official splits, even if the run was trained on the user's own files.

    Raises:
        InputError: There is no such task.
    """
    task = get_task(name)
    trained = str(recipe.get("task", name)).split(",")
    answered_as = name if name in trained else run_of(name)
    prefix = _value(recipe, "data.prompt_prefix", answered_as, str)
    if prefix is not None:
        task = replace(task, prompt_prefix=prefix)
    suffix = _value(recipe, "data.prompt_suffix", answered_as, str)
    if suffix is not None:
        task = replace(task, prompt_suffix=suffix)
    limits_of = name if name in trained else trained[0]
    max_prompt_tokens = _value(recipe, "data.max_prompt_tokens", limits_of, int)
    max_answer_tokens = _value(recipe, "generation.max_length", limits_of, int)
    task = replace(
        task,
        max_prompt_tokens=max_prompt_tokens or task.max_prompt_tokens,
        # Answers that may be generated must not be truncated in training.
        max_answer_tokens=max(task.max_answer_tokens, max_answer_tokens or 0),
    )
    train_file = _value(recipe, "data.train_file", name, str)
    validation_file = _value(recipe, "data.validation_file", name, str)
    if official or train_file is None or validation_file is None:
        return task
    return with_own_files(task, {"train": Path(train_file), "val": Path(validation_file)})


def _value(recipe: Mapping[str, Any], field: str, task: str, kind: type[Value]) -> Value | None:
    """Return a task's value of a field, if it has the right type."""
    value = get_field(recipe, (*field.split("."), task))
    return value if isinstance(value, kind) else None
