"""The table beside the features: which images a file lists, and what became of each.

Text is written with a fixed length; the first files, and those of other tools, have it of variable
length, where a few bytes can stand for any amount of it. So it is read little by little, and there
may be no more of it than there are bytes in the file.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError
from feature_extraction.store.layout import Status

__all__ = ["LONGEST_ID", "Table", "read_image_ids", "read_table", "read_texts", "repeated_ids"]

# What is read before it is looked at.
TEXT_BYTES = 2**26
LONGEST_ID = 2**12
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Table:
    """What a store says of its images.

    Args:
        image_ids: Of all images, in the order of the file.
        status: uint8 `[images]`, as `feature_extraction.store.layout.Status`.
        image_size: int32 `[images, 2]`, height and width; zeros where the image failed.
        failures: Reason by id of each image that failed.
    """

    image_ids: tuple[str, ...]
    status: NDArray[np.uint8]
    image_size: NDArray[np.int32]
    failures: dict[str, str]


def read_table(file: h5py.File) -> Table:
    """Read the table of a file that `feature_extraction.store.layout` has checked.

    Raises:
        StoreError: Its text is not such as extraction writes.
    """
    image_ids = read_image_ids(file)
    status: NDArray[np.uint8] = file["status"][:]
    failed = np.flatnonzero(status == Status.FAILED)
    reasons = read_texts(file["reason"], failed.tolist())
    failures = {image_ids[row]: reason for row, reason in zip(failed, reasons, strict=True)}
    return Table(image_ids, status, file["image_size"][:], failures)


def read_image_ids(file: h5py.File) -> tuple[str, ...]:
    """Read the ids of all images of a checked file.

    Raises:
        StoreError: One is empty or too long, or holds a NUL.
    """
    image_ids = tuple(read_texts(file["image_id"], range(file["image_id"].shape[0])))
    for image_id in image_ids:
        if not image_id or "\0" in image_id or len(image_id) > LONGEST_ID:
            raise StoreError(
                f"/image_id holds {image_id[:80]!r} ({len(image_id):,} characters), expected names "
                f"of 1 to {LONGEST_ID:,} characters, none of them NUL"
            )
    return image_ids


def repeated_ids(image_ids: Sequence[str]) -> str:
    """Name a few of the ids that occur more than once; empty where none does."""
    if len(set(image_ids)) == len(image_ids):
        return ""
    repeated = [image_id for image_id, count in Counter(image_ids).items() if count > 1]
    more = f" and {len(repeated) - SHOWN:,} more" if len(repeated) > SHOWN else ""
    return ", ".join(repeated[:SHOWN]) + more


def read_texts(dataset: h5py.Dataset, rows: Sequence[int]) -> Iterator[str]:
    """Read some rows, ascending, of a dataset of text."""
    file_bytes, read = dataset.file.id.get_filesize(), 0
    # The file itself may hold any length, and one text of variable length may be all of it.
    longest = h5py.check_string_dtype(dataset.dtype).length or file_bytes
    step = max(1, TEXT_BYTES // longest)
    for start in range(0, dataset.shape[0], step):
        wanted = rows[bisect_left(rows, start) : bisect_left(rows, start + step)]
        texts = dataset.asstr("utf-8")[start : start + step] if wanted else []
        for row in wanted:
            text = texts[row - start]
            read += len(text)
            if read > file_bytes:
                raise StoreError(
                    f"{dataset.name} stands for more text than the {file_bytes:,} bytes of the "
                    "file; refused"
                )
            yield str(text)
