"""Tasks, one file each: data files, splits, prompts, targets and the metric.

`get_task("vqa")` finds a task by its file name, so a new task needs no registration. No module of
this package imports torch.
"""

import importlib
import pkgutil

from eval.errors import InputError
from eval.text import unknown_name
from tasks._answers import MIN_ANSWER_COUNT, build_answer_list, load_answer_list
from tasks._examples import Example, ExampleTable
from tasks._own_data import load_own_examples, score_own_predictions, with_own_files
from tasks._suites import SUITES
from tasks._task import Head, Prepared, Score, Submission, Task

__all__ = [
    "MIN_ANSWER_COUNT",
    "SUITES",
    "Example",
    "ExampleTable",
    "Head",
    "Prepared",
    "Score",
    "Submission",
    "Task",
    "build_answer_list",
    "get_task",
    "load_answer_list",
    "load_own_examples",
    "score_own_predictions",
    "task_names",
    "with_own_files",
]


def task_names() -> list[str]:
    """Return the names of all tasks: the public modules of this package."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get_task(name: str) -> Task:
    """Return the task defined in `tasks/<name>.py`.

    Raises:
        InputError: There is no such task.
    """
    if name in SUITES:
        raise InputError(
            f"{name} is a suite of {len(SUITES[name])} tasks, not a task: expected one of its "
            f"tasks here: {', '.join(SUITES[name])}. `vl-lst train --task {name}` trains them all, "
            "one run each."
        )
    if name not in task_names():
        raise InputError(unknown_name("task", name, task_names()))
    task: Task = importlib.import_module(f"tasks.{name}").TASK
    return task
