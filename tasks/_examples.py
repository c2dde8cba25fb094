"""Examples, and tables of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Example", "ExampleTable", "PrefixedExamples"]


@dataclass(frozen=True, slots=True)
class Example:
    """One question to a model.

    Args:
        id: Official ID, as text. Predictions are matched to examples by it.
        image_ids: IDs in the feature store: two for NLVR2, one for the other tasks.
        prompt: Text for the encoder. `Task.load` puts the task's prefix before it
            ("vqa: what is this?"); a task's own reader leaves it out.
        targets: (answer, weight in [0, 1]) pairs. Empty if the split has no labels or no answer
            can score.
        prefix: The part of `prompt` that is the task's prefix.
    """

    id: str
    image_ids: tuple[str, ...]
    prompt: str
    targets: tuple[tuple[str, float], ...]
    prefix: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """The prompt without the task's prefix."""
        return self.prompt[len(self.prefix) :]

    def with_prefix(self, prefix: str) -> "Example":
        """Return the example with another prefix before its text."""
        return Example(self.id, self.image_ids, prefix + self.text, self.targets, prefix)


class ExampleTable(Protocol):
    """The examples of one split, in the order of the official file."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def __iter__(self) -> Iterator[Example]: ...

    def ids(self) -> list[str]:
        """Return the IDs of all examples, in order."""
        ...

    def image_ids(self) -> list[str]:
        """Return the distinct image IDs of all examples, in order of first use."""
        ...


class PrefixedExamples:
    """A table of examples with a prefix before each prompt.

    Args:
        examples: The examples.
        prefix: The prefix, with its trailing space.
    """

    def __init__(self, examples: ExampleTable, prefix: str) -> None:
        self._examples = examples
        self._prefix = prefix

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index].with_prefix(self._prefix)

    def __iter__(self) -> Iterator[Example]:
        for example in self._examples:
            yield example.with_prefix(self._prefix)

    def ids(self) -> list[str]:
        """Return the IDs of all examples, in order."""
        return self._examples.ids()

    def image_ids(self) -> list[str]:
        """Return the distinct image IDs of all examples, in order of first use."""
        return self._examples.image_ids()
