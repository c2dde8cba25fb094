"""Recipe of a run that evaluates a backbone as it is: the fields that evaluation reads.

A field that only training reads has a placeholder, is never written, and cannot be set.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field, model_validator

from eval.recipe_fields import get_field
from eval.run_files import ZERO_SHOT
from tasks import Head, Task
from vl_lst.choices import TrackerName
from vl_lst.errors import RecipeError
from vl_lst.recipes.fields import set_field
from vl_lst.recipes.schema import (
    BatchSize,
    Count,
    DataSection,
    File,
    MethodSection,
    OptimizerSection,
    Recipe,
    TrainingSection,
    VisualSection,
)

__all__ = ["ZeroShotRecipe", "complete_zero_shot_fields", "is_zero_shot", "split_prompt"]

PLACE_OF_TEXT = "{}"


class _ZeroShotData(DataSection):
    @model_validator(mode="after")
    def _require_examples(self) -> "_ZeroShotData":
        """Leave out the check, since the examples may be those of a file of the user."""
        return self


class _ZeroShotTraining(TrainingSection):
    epochs: int | None = Field(default=None, exclude=True)
    steps: Count | None = Field(default=None, exclude=True)
    batch_size: Mapping[str, BatchSize] = Field(default_factory=dict, exclude=True)
    evaluation_batch_size: BatchSize = 64
    evaluate_every: int = Field(default=1, exclude=True)
    checkpoint_every_steps: Count | None = Field(default=None, exclude=True)
    log_every_steps: Count = Field(default=1, exclude=True)
    compile: bool = Field(default=False, exclude=True)
    seed: int = Field(default=0, exclude=True)
    trackers: tuple[TrackerName, ...] = Field(default=(), exclude=True)

    @model_validator(mode="after")
    def _require_one_length(self) -> "_ZeroShotTraining":
        """Leave out the check, since nothing trains."""
        return self


class ZeroShotRecipe(Recipe):
    """Settings of a run that evaluates a backbone as it is.

    Args:
        data: Data of the tasks, with the prompt that is put around each text.
        features: Feature files of all images; none if the backbone reads the text alone.
        training: Batches, precision and device of evaluation.
    """

    data: _ZeroShotData
    features: tuple[File, ...] = ()
    states: File | None = Field(default=None, exclude=True)
    visual: VisualSection = Field(default=VisualSection(), exclude=True)
    method: MethodSection = MethodSection(name=ZERO_SHOT, options={})
    head: Mapping[str, Head] = Field(exclude=True)
    optimizer: OptimizerSection = Field(default=OptimizerSection(lr=1.0), exclude=True)
    training: _ZeroShotTraining = _ZeroShotTraining()


def is_zero_shot(fields: Mapping[str, Any]) -> bool:
    """Return whether a recipe, as read from a file, is of a run without training."""
    name: object = get_field(fields, ("method", "name"))
    return name == ZERO_SHOT


def complete_zero_shot_fields(
    fields: dict[str, Any], changed: Sequence[Sequence[str]], tasks: Sequence[Task]
) -> None:
    """Fill in the prompts and heads of a zero-shot recipe.

    Args:
        fields: Recipe, changed in place.
        changed: Paths of the fields that the user has set.
        tasks: Tasks of the recipe.

    Raises:
        RecipeError: The user has set a field that only training reads.
    """
    unread = set(_unread_fields(ZeroShotRecipe)) | {("method",)}
    for path in changed:
        if any(tuple(path[: len(name)]) == name for name in unread):
            raise RecipeError(
                f"{'.'.join(path)}: found a value, expected none, since zero-shot evaluation "
                "trains nothing and does not read this field; leave it out"
            )
    for task in tasks:
        names = [("data", f"prompt_{part}", task.name) for part in ("prefix", "suffix")]
        if all(get_field(fields, name) is None for name in names):
            for name, value in zip(names, split_prompt(task, task.zero_shot_prompt), strict=True):
                set_field(fields, name, value)
        set_field(fields, ("head", task.name), "generate")


def _unread_fields(
    model: type[BaseModel], parents: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if field.exclude:
            yield (*parents, name)
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _unread_fields(kind, (*parents, name))


def split_prompt(task: Task, prompt: str) -> tuple[str, str]:
    """Return the prefix and the suffix of a prompt, the parts before and after the text.

    Args:
        task: Task of the prompt.
        prompt: The prompt, in which "{}" stands for the text, if the task takes one.

    Raises:
        RecipeError: "{}" does not occur exactly once; or it does, and the task takes no text.
    """
    found, expected = prompt.count(PLACE_OF_TEXT), int(task.takes_text)
    if found != expected:
        advice = (
            f'expected exactly one, the place of the text, such as "{task.zero_shot_prompt}"'
            if task.takes_text
            else f'expected none, since the task takes no text, such as "{task.zero_shot_prompt}"'
        )
        raise RecipeError(
            f"the prompt {prompt!r:.80} of {task.name} has {PLACE_OF_TEXT} {found} times: {advice}"
        )
    prefix, _, suffix = prompt.partition(PLACE_OF_TEXT)
    return prefix, suffix
