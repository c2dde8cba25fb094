"""Examples, and tables of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Example", "ExampleTable"]


@dataclass(frozen=True, slots=True)
class Example:
    """One question to a model.

    Args:
        id: Official ID, as text. Predictions are matched to examples by it.
        image_ids: IDs in the feature store: two for NLVR2, none for tasks of text alone.
        prompt: Text for the encoder. `Task.load` puts the task's prefix before it
            ("vqa: what is this?") and the suffix after it; a task's own reader leaves them out.
        targets: (answer, weight in [0, 1]) pairs. Empty if the split has no labels or no answer
            can score.
        prefix: The part of `prompt` that is the task's prefix.
        suffix: The part of `prompt` that is the task's suffix.
    """

    id: str
    image_ids: tuple[str, ...]
    prompt: str
    targets: tuple[tuple[str, float], ...]
    prefix: str = field(default="", compare=False)
    suffix: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """The prompt without the task's prefix and suffix."""
        return self.prompt[len(self.prefix) : len(self.prompt) - len(self.suffix)]

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers of `targets`, those with the highest weight first."""
        return tuple(answer for answer, _ in sorted(self.targets, key=lambda target: -target[1]))


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

    def with_prompt(self, prefix: str, suffix: str) -> "ExampleTable":
        """Return the same examples with other texts before and after those of the prompts."""
        ...
