"""Recipes that are still to be given a task, data or a backbone: complete and check what is there.

Every bundled recipe is one, and so are most recipe files.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from eval.recipe_fields import get_field
from tasks import Task, get_task
from vl_lst.choices import AUTO
from vl_lst.option_names import advice
from vl_lst.recipes import precision
from vl_lst.recipes.fields import set_field
from vl_lst.recipes.per_task import is_task_field
from vl_lst.recipes.resolving import (
    complete_fields,
    require_fitting_method,
    resolve_zero_shot_recipe,
)
from vl_lst.recipes.schema import Recipe
from vl_lst.recipes.validation import find_problems, invalid_recipe, section_of
from vl_lst.recipes.zero_shot import ZeroShotRecipe, is_zero_shot

__all__ = ["PartialRecipe", "complete_recipe"]

EPOCHS = ("training", "epochs")
ROOT = ("data", "root")
BACKBONE = ("backbone", "name")
PRECISIONS = (precision.BACKBONE, precision.ARITHMETIC)
# Stands for the task in messages about fields with one value per task.
ANY_TASK = "TASK"


@dataclass(frozen=True, slots=True)
class PartialRecipe:
    """A recipe without what each run is given, such as its data.

    Args:
        fields: Its fields, with defaults. Those that depend on the task, if it has none, or on the
            device are missing unless they are set; a precision may be `auto`.
        missing: Fields that a run must be given, each with what it needs.
        model: Type of the recipe.
    """

    fields: Mapping[str, Any]
    missing: Mapping[str, str]
    model: type[Recipe]


def complete_recipe(
    recipe: Mapping[str, Any], overrides: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()
) -> PartialRecipe:
    """Apply overrides to a recipe, fill in defaults, and check all that is given.

    Resolving what this returns gives the same as resolving the recipe with its overrides.

    Args:
        recipe: Fields as read from a file.
        overrides: See `resolve_recipe`.

    Raises:
        RecipeError: A field is unknown or out of range.
        InputError: There is no such task.
    """
    if is_zero_shot(recipe):
        resolved = resolve_zero_shot_recipe(recipe, overrides)
        return PartialRecipe(resolved.model_dump(mode="json"), {}, ZeroShotRecipe)
    fields, tasks = complete_fields(recipe, overrides, needs_task=False)
    missing = _missing_inputs(fields, tasks) | _validate(fields, tasks)
    _fill_in_defaults(fields, Recipe)
    for path in PRECISIONS:
        if get_field(fields, path) is None:
            set_field(fields, path, AUTO)
    return PartialRecipe(fields, missing, Recipe)


def _missing_inputs(fields: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, str]:
    """Return the fields of data and features that a run must be given."""
    missing = {}
    if not tasks:
        missing["task"] = f"{advice('task')} TASK"
    own = get_field(fields, ("data", "train_file"))
    has_own = own is not None and (not isinstance(own, dict) or all(own.values()))
    if get_field(fields, BACKBONE) is None:
        missing["backbone.name"] = f"{advice('backbone.name')} NAME"
    if get_field(fields, ROOT) is None and not has_own:
        own_files = f"{advice('data.train_file')} and {advice('data.validation_file')}"
        missing["data.root"] = f"{advice('data.root')} DIR, or {own_files}"
    if not fields.get("features") and (not tasks or any(each.images_per_example for each in tasks)):
        condition = "" if tasks else ", if examples have images"
        missing["features"] = f"{advice('features')} FILE.h5{condition}"
    return missing


def _validate(fields: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, str]:
    """Check the fields that are given, and return the others that a run must be given.

    Raises:
        RecipeError: A field is unknown or out of range.
        InputError: A value is for a task that does not exist.
    """
    missing: dict[str, str] = {}
    for probe in _probes(fields, tasks):
        resolved, details = find_problems(Recipe, probe)
        if wrong := [detail for detail in details if detail["type"] != "missing"]:
            raise invalid_recipe(Recipe, wrong)
        for path in (".".join(map(str, detail["loc"])) for detail in details):
            missing[path] = advice(path)
        if resolved is not None:
            require_fitting_method(resolved)
    return missing


def _probes(fields: Mapping[str, Any], tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
    """Yield the fields with stand-ins for what a run is given, once per number of epochs."""
    probe = copy.deepcopy(dict(fields))
    for given, stand_in in ((ROOT, "."), (BACKBONE, "NAME")):
        if get_field(probe, given) is None:
            set_field(probe, given, stand_in)
    for decided in PRECISIONS:
        if get_field(probe, decided) in (None, AUTO):
            set_field(probe, decided, "fp32")
    if get_field(probe, precision.TF32) is None:
        set_field(probe, precision.TF32, False)
    if not tasks:
        probe["task"] = ANY_TASK
        for path in _paths_per_task(Recipe):
            value = get_field(probe, path)
            if isinstance(value, dict):
                _require_tasks(value)
            else:
                set_field(probe, path, {} if value is None else {ANY_TASK: value})
    epochs = get_field(probe, EPOCHS)
    if not isinstance(epochs, dict):
        yield probe
        return
    _require_tasks(epochs)
    for number in epochs.values() or [None]:
        set_field(probe, EPOCHS, number)
        yield probe


def _require_tasks(names: Iterable[str]) -> None:
    for name in names:
        get_task(name)


def _paths_per_task(
    model: type[BaseModel], parents: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        path = (*parents, name)
        if is_task_field(".".join(path)):
            yield path
        elif (section := section_of(field)) is not None:
            yield from _paths_per_task(section, path)


def _fill_in_defaults(
    fields: dict[str, Any], model: type[BaseModel], parents: tuple[str, ...] = ()
) -> None:
    """Set missing fields that have a default; the device decides some others."""
    for name, field in model.model_fields.items():
        path = (*parents, name)
        section = section_of(field)
        if section is not None and _is_always_there(field, fields.get(name)):
            _fill_in_defaults(fields.setdefault(name, {}), section, path)
        elif name not in fields and not field.is_required() and path != precision.TF32:
            fields[name] = field.get_default(call_default_factory=True)


def _is_always_there(field: FieldInfo, value: object) -> bool:
    """Whether a section has fields; one that may be null has them only if it is set."""
    return value is not None or field.default is not None
