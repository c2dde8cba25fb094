"""Suites: names for several tasks that are trained one by one and reported together."""

from collections.abc import Mapping, Sequence

from tasks._task import Task

__all__ = ["SUITES", "run_of", "splits_of"]

SUITES: Mapping[str, Sequence[str]] = {
    "glue": ("cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "stsb"),
}
# Splits that may consist of several, such as `dev_matched` and `dev_mismatched`.
SPLITS_WITH_PARTS = ("dev", "test")
# Tasks without training examples, and the task whose models answer them.
ANSWERED_BY = {"ax": "mnli"}


def run_of(task: str) -> str:
    """Return the task whose models answer a task: another one if it has nothing to train on."""
    return ANSWERED_BY.get(task, task)


def splits_of(task: Task, split: str) -> list[str]:
    """Return the splits of a task that a split of its suite stands for.

    A task that has several test sets has no split `test`, but `test_matched` and
    `test_mismatched`.

    Args:
        task: A task of a suite.
        split: Name of the split in the suite.

    Raises:
        InputError: The task has no such split.
    """
    if split in task.splits:
        return [split]
    parts = [name for name in task.splits if name.startswith(f"{split}_")]
    if split not in SPLITS_WITH_PARTS or not parts:
        raise task.unknown_split(split)
    return parts
