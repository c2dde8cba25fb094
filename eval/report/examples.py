"""What the browser of examples shows: questions with predictions and what is right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["ExampleCard", "ExampleSheet", "Pictures"]

# JPEG files by image id.
Pictures = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class ExampleCard:
    """One example.

    Args:
        id: Its official id.
        prompt: What was asked; empty where there is one prompt for all.
        prediction: What the model said.
        truth: What people say, the best answer first.
        right: Whether the metric gives at least half of what can be had; `None` where examples are
            not right or wrong (captions).
        image_ids: What it is about.
    """

    id: str
    prompt: str
    prediction: str
    truth: Sequence[str]
    right: bool | None
    image_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class ExampleSheet:
    """Examples of one task and split from one run.

    Args:
        task: The task.
        split: The split.
        total: How many examples the split has; `None` where that is not known.
        cards: Some of them, in the order of the split.
        note: What is missing, and how to get it; empty where nothing is.
    """

    task: str
    split: str
    total: int | None = None
    cards: Sequence[ExampleCard] = ()
    note: str = ""
