"""Errors about images that have no features."""

from typing import Any, cast

import pytest

from feature_extraction.errors import StoreError
from vl_lst.data.examples import require_images


class Reader(dict[str, object]):
    """Stand-in for a feature file."""

    failures = {"bad": "the file is empty"}

    def missing(self, image_ids: list[str]) -> list[str]:
        return [image_id for image_id in image_ids if image_id not in self]


class Examples:
    def __init__(self, *image_ids: str) -> None:
        self._image_ids = list(image_ids)

    def image_ids(self) -> list[str]:
        return self._image_ids


def message_about(*image_ids: str) -> str:
    with pytest.raises(StoreError) as caught:
        require_images(cast(Any, Reader(there=1)), "val", cast(Any, Examples(*image_ids)))
    return str(caught.value)


def test_unreadable_images_must_be_replaced() -> None:
    message = message_about("there", "bad")
    assert "1 of the 2 images of val have no features, 1 of which could not be read" in message
    assert message.endswith(
        "Replace their files and extract the features again with the same command, or leave out "
        "the examples."
    )


def test_absent_images_must_be_extracted() -> None:
    assert message_about("there", "bad", "gone").endswith("add --features MORE.h5.")
