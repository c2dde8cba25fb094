"""Recipe fields with one value per task: expand a single value, fill in missing ones."""

from collections.abc import Callable, Sequence
from typing import Any

from eval.recipe_fields import get_field
from tasks import Task, get_task
from vl_lst.errors import RecipeError
from vl_lst.recipes.fields import set_field
from vl_lst.task_settings import configure_task

__all__ = [
    "choose_epochs",
    "complete_task_fields",
    "expand_task_fields",
    "is_task_field",
    "parse_tasks",
    "require_training_splits",
    "set_default_batch_sizes",
]

HEAD = "head"
BATCH_SIZE = "training.batch_size"
EPOCHS = "training.epochs"
# Each task's default, if a recipe sets none.
DEFAULTS: dict[str, Callable[[Task], object]] = {
    "data.train_split": lambda task: task.splits[0],
    # A task without anything to train on has a single split, which a run without training answers.
    "data.validation_split": lambda task: task.splits[:2][-1],
    "data.train_file": lambda task: None,
    "data.validation_file": lambda task: None,
    "data.prompt_prefix": lambda task: task.prompt_prefix,
    "data.prompt_suffix": lambda task: task.prompt_suffix,
    "data.answer_list": lambda task: None,
    "data.min_answer_count": lambda task: task.min_answer_count,
    "data.max_prompt_tokens": lambda task: task.max_prompt_tokens,
    HEAD: lambda task: task.heads[0],
    "generation.beams": lambda task: task.beams,
    "generation.max_length": lambda task: task.max_answer_tokens,
}
SPLITS = ("data.train_split", "data.validation_split")
FILES = ("data.train_file", "data.validation_file")


def parse_tasks(fields: dict[str, Any]) -> list[Task]:
    """Return the tasks that a recipe names, and write them back as `vqa,gqa`.

    Raises:
        InputError: There is no such task.
        RecipeError: No task is named, or one is named twice.
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


def is_task_field(path: str) -> bool:
    """Return whether a field has one value per task."""
    return path in (*DEFAULTS, BATCH_SIZE)


def expand_task_fields(fields: dict[str, Any], tasks: Sequence[Task]) -> None:
    """Turn one value for all tasks into one value per task; drop tasks that do not train."""
    names = {task.name for task in tasks}
    for field in (*DEFAULTS, BATCH_SIZE):
        path = field.split(".")
        value = get_field(fields, path)
        if value is None:
            continue
        if not isinstance(value, dict):
            value = {task.name: _value_for(task, field, value, tasks) for task in tasks}
        for name in value.keys() - names:
            get_task(name)  # raises if the name is misspelt
        set_field(fields, path, {name: value[name] for name in value if name in names})


def set_default_batch_sizes(fields: dict[str, Any], tasks: Sequence[Task]) -> None:
    """Set the tasks' own batch sizes, if a recipe gives none."""
    path = BATCH_SIZE.split(".")
    if get_field(fields, path) is None:
        own = {task.name: _batch_size(task, task.batch_size, tasks) for task in tasks}
        set_field(fields, path, own)


def choose_epochs(fields: dict[str, Any], tasks: Sequence[Task]) -> None:
    """Replace epochs that a recipe gives for each task by those of the tasks that train.

    Raises:
        RecipeError: A task has no number, or the tasks have different ones.
        InputError: A number is for a task that does not exist.
    """
    path = EPOCHS.split(".")
    epochs = get_field(fields, path)
    if not isinstance(epochs, dict):
        return
    for name in epochs:
        get_task(name)  # raises if the name is misspelt
    chosen = {task.name: epochs.get(task.name) for task in tasks}
    if missing := [name for name, number in chosen.items() if number is None]:
        raise RecipeError(
            f"{EPOCHS}: found a number for {', '.join(epochs) or 'no task'}, none for "
            f"{', '.join(missing)}; set one with --set {EPOCHS}=..."
        )
    first = next(iter(chosen.values()))
    if any(number != first for number in chosen.values()):
        found = ", ".join(f"{name}: {number!r:.20}" for name, number in chosen.items())
        raise RecipeError(
            f"{EPOCHS}: found {found}; tasks that train together have one number: set it with "
            f"--set {EPOCHS}=..., or train each task in a separate run"
        )
    set_field(fields, path, first)


def complete_task_fields(fields: dict[str, Any], tasks: Sequence[Task]) -> None:
    """Fill in the tasks' defaults for missing values.

    Raises:
        RecipeError: A task has no such split or head, its batch size is missing, or only one of
            its two own files is given.
    """
    for task in tasks:
        _require_both_files(fields, task)
    tasks = [configure_task(fields, task.name) for task in tasks]
    for field, default in DEFAULTS.items():
        path = field.split(".")
        for task in tasks:
            if get_field(fields, (*path, task.name)) is None:
                set_field(fields, (*path, task.name), default(task))
    sizes = get_field(fields, BATCH_SIZE.split("."))
    for task in tasks:
        for field in SPLITS:
            _require_choice(fields, field, task, task.splits)
        _require_choice(fields, HEAD, task, task.heads)
        if sizes is not None and sizes.get(task.name) is None:
            where = f"{BATCH_SIZE}.{task.name}"
            raise RecipeError(f"{where}: missing; set it in the recipe or with --set {where}=...")


def require_training_splits(fields: dict[str, Any], tasks: Sequence[Task]) -> None:
    """Check that each task has splits to train and validate on.

    Raises:
        RecipeError: A task has only examples without public answers.
    """
    for name in (task.name for task in tasks):
        splits = configure_task(fields, name).splits
        if len(splits) < 2:
            raise RecipeError(
                f"task: {name} has only the split {', '.join(splits)}, without public answers; "
                "expected splits to train and validate on. Train another task, or give your own "
                "examples with --train-file and --val-file."
            )


def _require_both_files(fields: dict[str, Any], task: Task) -> None:
    is_missing = [get_field(fields, (*field.split("."), task.name)) is None for field in FILES]
    if any(is_missing) and not all(is_missing):
        missing, found = FILES if is_missing[0] else FILES[::-1]
        raise RecipeError(
            f"{missing}.{task.name}: missing, while {found}.{task.name} is given; expected both "
            "(--train-file and --val-file), or neither for the official files"
        )


def _value_for(task: Task, field: str, value: object, tasks: Sequence[Task]) -> object:
    """Return a task's part of a value that is given for all tasks."""
    if len(tasks) == 1:
        return value
    if field in FILES:
        raise RecipeError(
            f"{field}: found one file for {len(tasks)} tasks, whose formats differ; expected one "
            f"file per task, such as --set {field}.{task.name}=FILE"
        )
    if field == BATCH_SIZE and type(value) is int and value > 0:
        return _batch_size(task, value, tasks)
    if field == HEAD and value not in task.heads and any(value in each.heads for each in tasks):
        # In place of one that classifies, one that regresses: neither needs a decoder.
        others = [head for head in task.heads if head != "generate"]
        return others[0] if others else task.heads[0]
    return value


def _batch_size(task: Task, whole: int, tasks: Sequence[Task]) -> int:
    """Return a task's batch size if a task that trains alone, or VQA, has the size `whole`."""
    return whole if len(tasks) == 1 else max(1, round(whole * task.batch_share))


def _require_choice(fields: Any, field: str, task: Task, choices: Sequence[str]) -> None:
    value = get_field(fields, (*field.split("."), task.name))
    if value not in choices:
        raise RecipeError(
            f"{field}.{task.name}: found {value!r:.80}; expected one of: {', '.join(choices)}"
        )
