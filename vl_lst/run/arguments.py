"""Checks of the arguments of `Run.predict`."""

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

from PIL import Image

from eval.errors import InputError
from eval.text import is_utf8
from tasks import Task

__all__ = ["ImageSource", "image_list", "task_text"]

ImageSource = str | Path | Image.Image


def task_text(task: Task, question: object, text2: object) -> str:
    """Return the text of a prompt, without the task's prefix and suffix.

    Args:
        task: Task to predict.
        question: Question, statement or first text; `None` if there is none.
        text2: Second text; `None` if there is none.

    Raises:
        InputError: There are more or fewer texts than the task takes, or a text is not a string, is
            blank, or is not valid Unicode.
    """
    names = ("question", "second text") if task.images_per_example else ("text", "second text")
    texts = {
        name: text for name, text in zip(names, (question, text2), strict=True) if text is not None
    }
    for name, text in texts.items():
        _require_text(name, text)
    taken = names[: task.texts_per_example]
    if tuple(texts) != taken:
        found = " and ".join(f"{name} {text!r:.60}" for name, text in texts.items())
        raise InputError(
            f"{task.name} takes {' and '.join(f'a {name}' for name in taken) or f'no {names[0]}'}; "
            f"found {found or 'none'}"
        )
    return task.text_format.format(*texts.values()) if texts else ""


def _require_text(name: str, text: object) -> None:
    """Refuse a text that is not a string, is blank, or is not valid Unicode."""
    if not isinstance(text, str):
        raise InputError(f"the {name} is {text!r:.60} ({type(text).__name__}): expected a string")
    if not text.strip():
        raise InputError(f"the {name} is empty: found {text!r}, expected a non-empty text")
    if not is_utf8(text):
        raise InputError(
            f"the {name} is not valid Unicode: found {text!a:.60}, expected valid text"
        )


def image_list(given: ImageSource | Sequence[ImageSource]) -> list[ImageSource]:
    """Return images as a list, in the order given.

    Raises:
        InputError: The images have no order, or one is neither a path nor a Pillow image.
    """
    images = [given] if isinstance(given, str | Path | Image.Image) else given
    if not isinstance(images, Iterable) or isinstance(images, Set | Mapping):
        raise InputError(
            f"the images are a {type(given).__name__}: expected one image, or a list in the order "
            "that the task takes them"
        )
    images = list(images)
    for image in images:
        if not isinstance(image, str | Path | Image.Image):
            raise InputError(
                f"an image is a {type(image).__name__}: expected the path of a file, or an image "
                "opened with Pillow (for an array, PIL.Image.fromarray)"
            )
    return images
