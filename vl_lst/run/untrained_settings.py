"""Settings of a run without training, from options and from the run that is in the folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eval.errors import InputError
from eval.recipe_fields import METHOD_FIELDS, NON_PROTOCOL_FIELDS, flatten_fields, is_within
from tasks import get_task
from vl_lst.errors import CheckpointError, RecipeError
from vl_lst.recipes import ZeroShotRecipe, load_recipe, resolve_zero_shot_recipe
from vl_lst.recipes.per_task import is_task_field
from vl_lst.recipes.zero_shot import split_prompt
from vl_lst.runs.directory import RunDirectory

__all__ = ["prompt_settings", "read_saved_recipe", "require_same_settings", "resolve_settings"]

# Fields in which evaluations that are added to the same run may differ.
CHANGEABLE = (
    *(set(NON_PROTOCOL_FIELDS) - set(METHOD_FIELDS)),
    "task",
    "data.root",
    "data.validation_split",
)


def read_saved_recipe(directory: RunDirectory) -> ZeroShotRecipe | None:
    """Return the recipe of the run in a folder; `None` if it has no results yet.

    Raises:
        CheckpointError: The folder holds something else.
    """
    path = directory.path
    if not directory.recipe_file.exists():
        # Files whose names start with a dot are leftovers of processes that were killed.
        if path.is_dir() and any(each.name[0] != "." for each in path.iterdir()):
            raise CheckpointError(
                f"{path} is not empty and holds no run: expected a run, or a new or empty folder. "
                "Choose another folder."
            )
        return None
    recipe = load_recipe(directory.recipe_file)
    if not isinstance(recipe, ZeroShotRecipe):
        raise CheckpointError(
            f"{path} holds a run of the method {recipe.method.name}: expected a zero-shot run, or "
            "a folder that does not exist yet. Leave out --zero-shot to evaluate that run."
        )
    return recipe if directory.record_file.exists() else None


def resolve_settings(
    saved: ZeroShotRecipe | None,
    split: str | Path,
    task: str | None,
    prompt: str | None,
    overrides: Iterable[tuple[str, Any]],
) -> ZeroShotRecipe:
    """Return the recipe of a run to which the results of a split are added.

    Args:
        saved: Recipe of the run in the folder; `None` if it has no results yet.
        split: See `open_zero_shot_run`.
        task: See `open_zero_shot_run`.
        prompt: See `open_zero_shot_run`.
        overrides: See `open_zero_shot_run`.

    Raises:
        RecipeError: A setting is not valid.
        InputError: There is no such task, or none is given and the run does not have exactly one.
    """
    known = () if saved is None else saved.tasks
    if task is None:
        if len(known) != 1:
            found = f"the run has {', '.join(known)}" if known else "no task is given"
            raise InputError(f"{found}: expected the name of one task (--task)")
        task = known[0]
    changes: list[tuple[str, Any]] = [("task", ",".join(dict.fromkeys((*known, task))))]
    if task not in known and split in get_task(task).splits:
        changes.append((f"data.validation_split.{task}", str(split)))
    for path, value in overrides:
        is_for_all = is_task_field(path) and not isinstance(value, dict)
        changes.append((f"{path}.{task}" if is_for_all else path, value))
    changes += prompt_settings(task, prompt)
    return resolve_zero_shot_recipe({} if saved is None else saved.model_dump(mode="json"), changes)


def prompt_settings(task: str, prompt: str | None) -> list[tuple[str, str]]:
    """Return a prompt, such as "Question: {} Short answer:", as overrides of a recipe.

    Raises:
        RecipeError: The prompt does not fit the task.
    """
    if prompt is None:
        return []
    prefix, suffix = split_prompt(get_task(task), prompt)
    return [(f"data.prompt_prefix.{task}", prefix), (f"data.prompt_suffix.{task}", suffix)]


def require_same_settings(
    directory: RunDirectory, saved: ZeroShotRecipe, given: ZeroShotRecipe
) -> None:
    """Refuse settings with which results would not belong to the same run.

    Args:
        directory: Folder of the run.
        saved: Recipe of the run in the folder.
        given: Recipe of the results to add.

    Raises:
        RecipeError: A setting differs, other than those of `CHANGEABLE`.
    """
    before, now = (flatten_fields(each.model_dump(mode="json")) for each in (saved, given))
    differences = [
        f"{name}: {before[name]!r} in the run, {now[name]!r} given"
        for name in before.keys() & now.keys()
        if not is_within(name, CHANGEABLE) and before[name] != now[name]
    ]
    if differences:
        raise RecipeError(
            f"the run in {directory.path} has other settings, so no results can be added to it: "
            f"{'; '.join(sorted(differences))}. Leave out these options to use those of the run, "
            "or choose another folder."
        )
