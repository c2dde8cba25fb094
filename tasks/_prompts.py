"""Another text before every prompt than the task's own."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tasks._task import Example, ExampleTable, Task

__all__ = ["with_prompt_prefix"]


def with_prompt_prefix(task: Task, prefix: str) -> Task:
    """Return the task with `prefix` where its own stood ("gpa: " for "gqa: ").

    Models trained by other programs may know a task by another prefix. To be applied before
    `with_own_files`, which puts the prefix of the task it is given before a user's prompts.
    """
    if prefix == task.prompt_prefix:
        return task

    def load(data_root: Path, split: str) -> ExampleTable:
        return _Prefixed(task.load(data_root, split), task.prompt_prefix, prefix)

    return replace(task, prompt_prefix=prefix, load=load)


class _Prefixed:
    """Examples as they are, but for what their prompts begin with."""

    def __init__(self, examples: ExampleTable, old: str, new: str) -> None:
        self._examples = examples
        self._old = old
        self._new = new

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._changed(self._examples[index])

    def __iter__(self) -> Iterator[Example]:
        return map(self._changed, self._examples)

    def ids(self) -> list[str]:
        return self._examples.ids()

    def image_ids(self) -> list[str]:
        return self._examples.image_ids()

    def _changed(self, example: Example) -> Example:
        return replace(example, prompt=self._new + example.prompt.removeprefix(self._old))
