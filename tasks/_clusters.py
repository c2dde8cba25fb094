"""Clusters of examples that are not independent, for the statistics of scores."""

import re
from collections.abc import Iterable, Sequence

from tasks._examples import Example
from tasks._task import Task

__all__ = ["find_clusters"]


def find_clusters(task: Task, examples: Iterable[Example]) -> dict[str, str]:
    """Return the name of each example's cluster, by ID.

    Examples are in one cluster if they share an image or, without images, a text such as a premise.
    Official examples of a task may have clusters of their own (`Task.cluster_of`). An image is the
    same cluster in all tasks, as long as its clusters are single images.

    Args:
        task: Task of the examples.
        examples: Examples of one split.
    """
    pattern = _text_pattern(task)
    parents: dict[str, str] = {}
    first_with: dict[str, str] = {}
    for example in examples:
        parents[example.id] = example.id
        for key in _keys(task, example, pattern):
            _join(parents, first_with.setdefault(key, example.id), example.id)
    # A cluster of one image has its name, so that the image is one cluster over all tasks.
    names = {_root(parents, id_): key for key, id_ in reversed(first_with.items())}
    return {id_: names[_root(parents, id_)] for id_ in parents}


def _text_pattern(task: Task) -> re.Pattern[str]:
    """Return a pattern whose groups are the texts of a prompt."""
    return re.compile("(.*?)".join(map(re.escape, task.text_format.split("{}"))), re.DOTALL)


def _keys(task: Task, example: Example, pattern: re.Pattern[str]) -> Sequence[str]:
    """Return what an example has in common with those of its cluster."""
    if task.cluster_of is not None:
        return (f"{task.name} {task.cluster_of(example)}",)
    if example.image_ids:
        return example.image_ids
    found = pattern.fullmatch(example.text)
    texts = found.groups() if found else (example.text,)
    return tuple(f"{task.name} {text}" for text in texts)


def _root(parents: dict[str, str], id_: str) -> str:
    """Return the example that stands for the cluster of an example, and shorten the way to it."""
    while (parent := parents[id_]) != id_:
        parents[id_] = id_ = parents[parent]
    return id_


def _join(parents: dict[str, str], first: str, second: str) -> None:
    parents[_root(parents, second)] = _root(parents, first)
