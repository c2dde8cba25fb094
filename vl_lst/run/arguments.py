"""Checks of the arguments of `Run.predict`."""

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

from PIL import Image

from eval.errors import InputError

__all__ = ["ImageSource", "image_list", "require_question"]

ImageSource = str | Path | Image.Image


def require_question(question: object) -> None:
    """Refuse a question that is not a string, is blank, or is not valid Unicode.

    Raises:
        InputError: The question is invalid.
    """
    if not isinstance(question, str):
        raise InputError(
            f"the question is {question!r:.60} ({type(question).__name__}): expected a string"
        )
    if not question.strip():
        raise InputError(f"the question is empty: found {question!r}, expected a non-empty text")
    try:
        question.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the question is not valid Unicode: found {question!a:.60}, expected valid text"
        ) from None


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
