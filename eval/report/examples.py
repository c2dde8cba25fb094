"""Examples on the page of a run: prompts, predictions and reference answers."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["ExampleCard", "ExampleSheet", "Pictures", "jpeg_address"]

# Address of an image's thumbnail, by image ID.
Pictures = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ExampleCard:
    """One example with its prediction.

    Args:
        id: Official id.
        prompt: Prompt without the task prefix, each of several texts on its own line; empty if all
            examples share one prompt.
        prediction: Answer of the model.
        references: Reference answers, best first.
        is_right: Whether the prediction earns at least half of the maximum score; `None` for
            captions, which are not graded singly.
        image_ids: Ids of the images; empty for examples of text alone.
    """

    id: str
    prompt: str
    prediction: str
    references: Sequence[str]
    is_right: bool | None
    image_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class ExampleSheet:
    """Examples of one task and split from one run.

    Args:
        task: Task name.
        split: Split name.
        total: Number of examples in the split; `None` if unknown.
        cards: Selected examples, in the order of the split.
        note: What is missing and how to get it; empty if nothing is.
    """

    task: str
    split: str
    total: int | None = None
    cards: Sequence[ExampleCard] = ()
    note: str = ""


def jpeg_address(jpeg: bytes) -> str:
    """Return an address that contains a JPEG file."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
