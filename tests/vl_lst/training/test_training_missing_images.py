"""What is said where examples need images that have no features."""

from typing import Any, cast

import pytest

from feature_extraction.errors import StoreError
from vl_lst.data.examples import require_images


class Reader(dict[str, object]):
    """What a feature file says of its images."""

    failures = {"bad": "the file is empty"}

    def missing(self, image_ids: list[str]) -> list[str]:
        return [image_id for image_id in image_ids if image_id not in self]


class Examples:
    def __init__(self, *image_ids: str) -> None:
        self._image_ids = list(image_ids)

    def image_ids(self) -> list[str]:
        return self._image_ids


def said_of(*image_ids: str) -> str:
    with pytest.raises(StoreError) as caught:
        require_images(cast(Any, Reader(there=1)), "val", cast(Any, Examples(*image_ids)))
    return str(caught.value)


def test_images_that_could_not_be_read_must_be_replaced_not_extracted_elsewhere() -> None:
    said = said_of("there", "bad")
    assert "1 of the 2 images of val have no features, 1 of which could not be read" in said
    assert said.endswith(
        "Replace their files and run the command that extracts the features again, or leave out "
        "the examples."
    )


def test_images_that_are_not_there_must_be_extracted() -> None:
    assert said_of("there", "bad", "gone").endswith("add --features MORE.h5.")
