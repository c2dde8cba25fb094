"""Answer list of a task: from a file, from the task itself, or counted."""

from collections.abc import Callable
from pathlib import Path

from tasks import ExampleTable, Task
from tasks._answers import build_answer_list, load_answer_list
from vl_lst.recipes import Recipe

__all__ = ["answer_list_file", "load_answers"]


def load_answers(
    recipe: Recipe, task: Task, load_train: Callable[[], ExampleTable]
) -> list[str] | None:
    """Return the answer list of a task; `None` if the model may generate any answer.

    The first of these that exists: the recipe's file, the task's own words, the task's official
    file in the data root, the list counted from the training examples.

    Args:
        recipe: Recipe of the run.
        task: Task, as configured for the run.
        load_train: Function that returns the training examples, called if they are counted.

    Raises:
        InputError: The file is missing, or no answer is frequent enough.
    """
    head = recipe.head[task.name]
    is_constrained = recipe.generation.constrain_to_answers and "classify" in task.heads
    if head == "regress" or (head == "generate" and not is_constrained):
        return None
    file = answer_list_file(recipe, task)
    if file is not None:
        return load_answer_list(file)
    if task.answer_words is not None:
        return list(task.answer_words)
    return build_answer_list(load_train(), recipe.data.min_answer_count[task.name])


def answer_list_file(recipe: Recipe, task: Task) -> Path | None:
    """Return the file of a task's answer list; `None` if the list is not read from a file."""
    chosen: Path | None = recipe.data.answer_list[task.name]
    if chosen is not None or task.answer_words is not None or task.answer_list is None:
        return chosen
    official = recipe.data.folder / task.answer_list
    return official if official.is_file() else None
