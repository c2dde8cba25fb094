"""Fields that hold a value for each task: one value for all is spread, a missing one filled in."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks import Task, get_task, with_own_files
from vl_lst.errors import RecipeError
from vl_lst.recipes.fields import dig, set_field

__all__ = ["chosen_tasks", "complete_task_fields", "spread_task_fields", "with_given_files"]

HEAD = "head"
BATCH_SIZE = "training.batch_size"
# What each task has where a recipe says nothing; the batch size must be said.
DEFAULTS: dict[str, Callable[[Task], object]] = {
    "data.train_split": lambda task: task.splits[0],
    "data.validation_split": lambda task: task.splits[1],
    "data.train_file": lambda task: None,
    "data.validation_file": lambda task: None,
    "data.prompt_prefix": lambda task: task.prompt_prefix,
    "data.answer_list": lambda task: None,
    "data.min_answer_count": lambda task: task.min_answer_count,
    "data.max_prompt_tokens": lambda task: task.max_prompt_tokens,
    HEAD: lambda task: task.heads[0],
    "generation.beams": lambda task: task.beams,
    "generation.max_length": lambda task: task.max_answer_tokens,
}
SPLITS = ("data.train_split", "data.validation_split")
FILES = ("data.train_file", "data.validation_file")


def chosen_tasks(fields: dict[str, Any]) -> list[Task]:
    """The tasks a recipe names, written back as `vqa,gqa`.

    Raises:
        InputError: There is no such task.
        RecipeError: None is named, or one twice.
    """
    value = fields.get("task")
    if value is None:
        raise RecipeError(
            "task: missing; set it in the recipe or with --task, such as vqa, or vqa,gqa for both"
        )
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise RecipeError(f"task: found {value!r:.80}; expected names such as vqa, or vqa,gqa")
    names = [name.strip() for name in listed]
    tasks = [get_task(name) for name in names]
    if len(set(names)) < len(names):
        raise RecipeError(f"task: found {','.join(names)}; expected each task once")
    fields["task"] = ",".join(names)
    return tasks


def spread_task_fields(fields: dict[str, Any], tasks: Sequence[Task]) -> None:
    """Turn one value for all tasks into a value for each; leave out tasks that do not train."""
    names = {task.name for task in tasks}
    for field in (*DEFAULTS, BATCH_SIZE):
        path = field.split(".")
        value = dig(fields, path)
        if value is None:
            continue
        if not isinstance(value, dict):
            value = {task.name: _share(field, value, task, tasks) for task in tasks}
        for name in value.keys() - names:
            get_task(name)  # a slip of the pen must not go unnoticed
        set_field(fields, path, {name: value[name] for name in value if name in names})


def complete_task_fields(fields: dict[str, Any], tasks: Sequence[Task]) -> None:
    """Fill in the tasks' own values where the recipe has none.

    Raises:
        RecipeError: A task has no such split or head, a task's batch size is missing, or one of
            the two files of a user's own.
    """
    tasks = [_with_given_files(fields, task) for task in tasks]
    for field, default in DEFAULTS.items():
        path = field.split(".")
        for task in tasks:
            if dig(fields, (*path, task.name)) is None:
                set_field(fields, (*path, task.name), default(task))
    sizes = dig(fields, BATCH_SIZE.split("."))
    for task in tasks:
        for field in SPLITS:
            _require_choice(fields, field, task, task.splits)
        _require_choice(fields, HEAD, task, task.heads)
        if sizes is not None and sizes.get(task.name) is None:
            where = f"{BATCH_SIZE}.{task.name}"
            raise RecipeError(f"{where}: missing; set it in the recipe or with --set {where}=...")


def with_given_files(task: Task, train: Path | None, validation: Path | None) -> Task:
    """Return the task with a user's files as its splits `train` and `val`, where there are any."""
    if train is None or validation is None:
        return task
    return with_own_files(task, {"train": train, "val": validation})


def _with_given_files(fields: dict[str, Any], task: Task) -> Task:
    train, validation = (dig(fields, (*field.split("."), task.name)) for field in FILES)
    if (train is None) != (validation is None):
        found, missing = FILES if validation is None else FILES[::-1]
        raise RecipeError(
            f"{missing}.{task.name}: missing, while {found}.{task.name} is given; expected both "
            "(--train-file and --val-file), or neither for the official files"
        )
    return with_given_files(task, train and Path(str(train)), validation and Path(str(validation)))


def _share(field: str, value: object, task: Task, tasks: Sequence[Task]) -> object:
    """What a value that is given for all tasks means for one."""
    if len(tasks) == 1:
        return value
    if field in FILES:
        raise RecipeError(
            f"{field}: found one file for {len(tasks)} tasks, whose examples differ in form; "
            f"expected one for each, such as --set {field}.{task.name}=FILE"
        )
    if field == BATCH_SIZE and type(value) is int and value > 0:
        return max(1, round(value * task.batch_share))
    if field == HEAD and value not in task.heads and any(value in each.heads for each in tasks):
        return task.heads[0]
    return value


def _require_choice(fields: Any, field: str, task: Task, choices: Sequence[str]) -> None:
    value = dig(fields, (*field.split("."), task.name))
    if value not in choices:
        raise RecipeError(
            f"{field}.{task.name}: found {value!r:.80}; expected one of: {', '.join(choices)}"
        )
