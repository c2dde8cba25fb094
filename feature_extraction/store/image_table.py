"""The table of images in a feature file: ids, status, sizes, and failure reasons."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError
from feature_extraction.names import abbreviate
from feature_extraction.store.hdf5_text import read_rows_of_text
from feature_extraction.store.layout import Status

__all__ = [
    "MAX_ID_LENGTH",
    "ImageTable",
    "describe_repeated_ids",
    "read_image_ids",
    "read_image_table",
]

MAX_ID_LENGTH = 2**12


@dataclass(frozen=True, slots=True)
class ImageTable:
    """The images a store lists.

    Args:
        image_ids: Ids of all images, in file order.
        status: uint8 `[images]`; values of `Status`.
        image_size: int32 `[images, 2]`, height and width in pixels; zeros if the image failed.
        failures: Reason by id for each image that failed.
    """

    image_ids: tuple[str, ...]
    status: NDArray[np.uint8]
    image_size: NDArray[np.int32]
    failures: dict[str, str]


def read_image_table(file: h5py.File) -> ImageTable:
    """Read the table of a file that `feature_extraction.store.layout` has checked.

    Raises:
        StoreError: An id is invalid, or there is too much text.
    """
    image_ids = read_image_ids(file)
    status: NDArray[np.uint8] = file["status"][:]
    failed = np.flatnonzero(status == Status.FAILED)
    reasons = read_rows_of_text(file["reason"], failed.tolist())
    failures = {image_ids[row]: reason for row, reason in zip(failed, reasons, strict=True)}
    return ImageTable(image_ids, status, file["image_size"][:], failures)


def read_image_ids(file: h5py.File) -> tuple[str, ...]:
    """Read the ids of all images of a checked file.

    Raises:
        StoreError: An id is empty or too long, or contains NUL.
    """
    image_ids = tuple(read_rows_of_text(file["image_id"], range(file["image_id"].shape[0])))
    for image_id in image_ids:
        if not image_id or "\0" in image_id or len(image_id) > MAX_ID_LENGTH:
            raise StoreError(
                f"/image_id contains {image_id[:80]!r} ({len(image_id):,} characters), expected "
                f"names of 1 to {MAX_ID_LENGTH:,} characters without NUL"
            )
    return image_ids


def describe_repeated_ids(image_ids: Sequence[str]) -> str:
    """Return the first ids that occur more than once, for a message; empty if there are none."""
    if len(set(image_ids)) == len(image_ids):
        return ""
    return abbreviate([image_id for image_id, count in Counter(image_ids).items() if count > 1])
