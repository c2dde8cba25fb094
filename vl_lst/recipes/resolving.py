"""Combine a recipe file, overrides and the tasks' defaults into one validated recipe."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from eval.outputs import atomic_path
from eval.recipe_fields import get_field
from tasks import Task
from vl_lst.bundled import BACKBONE_FOLDERS
from vl_lst.errors import RecipeError
from vl_lst.methods import get_method, require_states_alone
from vl_lst.recipes.fields import clear_alternatives, set_field
from vl_lst.recipes.former import keep_former_values, rename_former_field
from vl_lst.recipes.optimizer_defaults import (
    PROJECTION,
    complete_projection,
    require_low_rank_factors,
)
from vl_lst.recipes.per_task import (
    choose_epochs,
    complete_task_fields,
    expand_task_fields,
    parse_tasks,
    require_training_splits,
    set_default_batch_sizes,
)
from vl_lst.recipes.precision import complete_precisions
from vl_lst.recipes.reading import parse_yaml, read_recipe_file
from vl_lst.recipes.schema import Recipe
from vl_lst.recipes.validation import section_of, validate_section
from vl_lst.recipes.zero_shot import ZeroShotRecipe, complete_zero_shot_fields, is_zero_shot

__all__ = [
    "complete_fields",
    "dump_recipe",
    "load_recipe",
    "parse_override",
    "require_fitting_method",
    "resolve_recipe",
    "resolve_zero_shot_recipe",
]

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)

OPTIONS = ("method", "options")
METHOD_NAME = ["method", "name"]
OPTIMIZER_NAME = ["optimizer", "name"]


def parse_override(text: str) -> tuple[str, Any]:
    """Split `optimizer.lr=1e-3` into the path of a field and its value, parsed as YAML.

    Raises:
        RecipeError: There is no `=`, or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise RecipeError(f"--set {text}: expected field=value, such as optimizer.lr=1e-3")
    return path, parse_yaml(value, source=f"--set {text}")


def resolve_recipe(
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    *,
    running: Recipe | None = None,
) -> Recipe:
    """Apply overrides to a recipe, fill in the tasks' defaults, and validate the result.

    Paths become absolute, so the result does not depend on the working directory. An override of
    `training.steps` alone replaces the recipe's `training.epochs`, and vice versa; the same holds
    for `optimizer.warmup_steps` and `optimizer.warmup_share`.

    Args:
        recipe: Fields as read from a file.
        overrides: (path of a field, value) pairs, or a dictionary of them; later pairs win. A pair
            that names another method or optimizer drops what the recipe, but no pair, sets for the
            former.
        running: Recipe of the run that will be resumed, whose precisions `auto` keeps. Default: a
            new run, for which `auto` depends on the device; see `recipes.precision`.

    Raises:
        RecipeError: A field is unknown, missing or out of range.
        InputError: There is no such task.
    """
    fields, tasks = complete_fields(recipe, overrides)
    complete_precisions(fields, running)
    _require_features(fields, tasks)
    resolved = validate_section(Recipe, fields)
    require_fitting_method(resolved)
    return _with_absolute_paths(resolved)


def complete_fields(
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    *,
    needs_task: bool = True,
) -> tuple[dict[str, Any], list[Task]]:
    """Apply overrides to a recipe and fill in all that does not depend on the device.

    Args:
        recipe: See `resolve_recipe`.
        overrides: See `resolve_recipe`.
        needs_task: Whether to refuse a recipe without a task, whose fields with one value per task
            otherwise stay as they are.

    Returns:
        The fields, which are not validated except for the method's options; and the tasks.

    Raises:
        RecipeError: An override, an option of the method or a task's field is not valid.
        InputError: There is no such task.
    """
    fields, changes, tasks = _apply(recipe, overrides, needs_task=needs_task)
    given = {tuple(path): value for path, value in changes}
    clear_alternatives(fields, lambda path: given.get(tuple(path)))
    if tasks:
        choose_epochs(fields, tasks)
        complete_task_fields(fields, tasks)
        require_training_splits(fields, tasks)
        _refuse_image_fields(fields, tasks)
    complete_projection(fields)
    name = get_field(fields, METHOD_NAME)
    if isinstance(name, str):
        found = get_field(fields, OPTIONS)
        options = {} if found is None else found
        method_options = validate_section(get_method(name).options, options, prefix=OPTIONS)
        set_field(fields, OPTIONS, method_options.model_dump(mode="json"))
    return fields, tasks


def require_fitting_method(recipe: Recipe) -> None:
    """Refuse a method that does not fit the optimizer, or the states of the backbone in a file.

    Raises:
        RecipeError: It does not fit.
    """
    if recipe.states is not None:
        require_states_alone(recipe.method.name)
    require_low_rank_factors(recipe.optimizer.name, recipe.method.name)


def resolve_zero_shot_recipe(
    recipe: Mapping[str, Any], overrides: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()
) -> ZeroShotRecipe:
    """Do the same as `resolve_recipe` for a run that evaluates a backbone as it is.

    Args:
        recipe: Fields of such a recipe; may be empty.
        overrides: See `resolve_recipe`.

    Raises:
        RecipeError: A field is unknown, missing, out of range or only read by training.
        InputError: There is no such task.
    """
    fields, changes, tasks = _apply(recipe, overrides)
    complete_zero_shot_fields(fields, [path for path, _ in changes], tasks)
    complete_task_fields(fields, tasks)
    complete_precisions(fields, running=None)
    _refuse_image_fields(fields, tasks)
    return _with_absolute_paths(validate_section(ZeroShotRecipe, fields))


def _require_features(fields: Mapping[str, Any], tasks: Sequence[Task]) -> None:
    """Require features if a task has images.

    Raises:
        RecipeError: There are none.
    """
    with_images = [task.name for task in tasks if task.images_per_example]
    if with_images and not get_field(fields, ("features",)):
        others = "" if len(with_images) == len(tasks) else f" ({', '.join(with_images)})"
        raise RecipeError(
            "the recipe is not valid:\n  features: missing; set it in the recipe or with "
            f"--features, since examples have images{others}"
        )


def _refuse_image_fields(fields: Mapping[str, Any], tasks: Sequence[Task]) -> None:
    """Refuse settings that need images if no task has any.

    Raises:
        RecipeError: Nothing reads a setting.
    """
    if any(task.images_per_example for task in tasks):
        return
    names = ", ".join(task.name for task in tasks)
    for path, expected in (
        ("features", "none (leave out --features and --images)"),
        ("data.blind", "false"),
    ):
        if found := get_field(fields, path.split(".")):
            raise RecipeError(
                f"{path}: found {json.dumps(found, default=str):.80}; examples of {names} have no "
                f"images, so nothing reads it: expected {expected}"
            )


def _apply(
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[tuple[str, Any]],
    *,
    needs_task: bool = True,
) -> tuple[dict[str, Any], list[tuple[list[str], Any]], list[Task]]:
    """Return the fields of a recipe with overrides, the overrides as paths, and the tasks.

    Without a task, fields with one value per task stay as they are.
    """
    if not isinstance(recipe, Mapping):
        raise RecipeError(
            f"the recipe is a {type(recipe).__name__}: expected its fields as a dictionary, such "
            "as read_recipe_file('lst') returns"
        )
    fields = json.loads(json.dumps(recipe, default=_plain))
    keep_former_values(fields)
    clear_alternatives(fields, lambda path: get_field(fields, path))
    if isinstance(overrides, Mapping):
        overrides = overrides.items()
    changes = [
        rename_former_field(path.split("."), json.loads(json.dumps(value, default=_plain)))
        for path, value in overrides
    ]
    for path, value in changes:
        if path == ["task"]:
            fields["task"] = value
    # After the names, so that the order of the two does not matter: a new name drops what the file
    # sets for the former one.
    changes.sort(key=lambda change: tuple(change[0][:2]) in (OPTIONS, PROJECTION))
    tasks = parse_tasks(fields) if needs_task or fields.get("task") is not None else []
    if tasks:
        expand_task_fields(fields, tasks)
        set_default_batch_sizes(fields, tasks)
    for path, value in changes:
        if path != ["task"]:
            if path == METHOD_NAME and value != get_field(fields, METHOD_NAME):
                set_field(fields, OPTIONS, {})  # drop options of the other method
            if path == OPTIMIZER_NAME and value != get_field(fields, OPTIMIZER_NAME):
                set_field(fields, PROJECTION, None)  # drop settings of the other optimizer
            set_field(fields, path, value)
            if tasks:
                # Expand a value for all tasks before the next change, which may be for one task.
                expand_task_fields(fields, tasks)
    for name, field in Recipe.model_fields.items():
        # A heading whose lines are all commented out.
        if section_of(field) is not None and name in fields and fields[name] is None:
            fields[name] = {}
    return fields, changes, tasks


def load_recipe(path: Path) -> Recipe:
    """Read a resolved recipe that `dump_recipe` wrote."""
    fields = read_recipe_file(path)
    return resolve_zero_shot_recipe(fields) if is_zero_shot(fields) else resolve_recipe(fields)


def dump_recipe(recipe: Recipe, path: Path) -> None:
    """Write a resolved recipe as YAML."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _plain(value: object) -> object:
    """Convert a Python value to one that JSON can represent: NumPy numbers, iterators, paths."""
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, Iterator) else str(value)


def _with_absolute_paths(recipe: AnyRecipe) -> AnyRecipe:
    data, backbone = recipe.data, recipe.backbone
    # A bundled backbone, even next to a folder of its name.
    if backbone.name not in BACKBONE_FOLDERS and Path(backbone.name).is_dir():
        backbone = backbone.model_copy(update={"name": str(Path(backbone.name).absolute())})
    return recipe.model_copy(
        update={
            "data": data.model_copy(
                update={
                    "root": data.root and data.root.absolute(),
                    "train_file": _absolute(data.train_file),
                    "validation_file": _absolute(data.validation_file),
                    "answer_list": _absolute(data.answer_list),
                }
            ),
            "features": tuple(path.absolute() for path in recipe.features),
            "states": recipe.states and recipe.states.absolute(),
            "backbone": backbone,
        }
    )


def _absolute(paths: Mapping[str, Path | None]) -> dict[str, Path | None]:
    return {task: path and path.absolute() for task, path in paths.items()}
