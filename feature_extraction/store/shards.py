"""Shards: parts of one extraction, each written by a separate process to a separate file.

Shards are cut from the sorted image list, at multiples of the batch size if there are enough
images. The encoder then sees the same batches as in an undivided run, so the features are
bit-identical.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import h5py
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.run_files import first_problem
from feature_extraction.errors import FeatureError, StoreError
from feature_extraction.store.hdf5_text import read_text_attribute

__all__ = ["SHARD_ATTRIBUTE", "Shard", "ShardRecord", "image_list_sha256", "read_shard_record"]

SHARD_ATTRIBUTE = "shard"
MAX_RECORD_LENGTH = 4096
Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class Shard:
    """One part of an extraction that is divided among several processes.

    Args:
        number: 1-based number of the shard.
        count: Number of shards.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `I/N`, such as `3/8`.

        Raises:
            FeatureError: The text has another form, or I is not in 1..N.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise FeatureError(
                f"the shard is {text!r:.80}, expected I/N with I from 1 to N, such as 1/8 for the "
                "first of eight; number the job array from 1"
            )
        return cls(int(match[1]), int(match[2]))

    def path(self, joined: Path) -> Path:
        """Return the path of this shard's file: `val.shard-3-of-8.h5` next to `val.h5`."""
        return joined.with_name(f"{joined.stem}.shard-{self.number}-of-{self.count}{joined.suffix}")

    def rows(self, images: int, batch_size: int) -> range:
        """Return the rows of the whole image list that belong to this shard.

        Raises:
            FeatureError: There are fewer images than shards.
        """
        if images < self.count:
            raise FeatureError(
                f"{images:,} images cannot be divided into {self.count:,} shards; choose at most "
                f"{images:,}"
            )
        step = batch_size if images >= self.count * batch_size else 1
        steps = -(-images // step)
        start, stop = (
            min(images, steps * number // self.count * step)
            for number in (self.number - 1, self.number)
        )
        return range(start, stop)


class ShardRecord(BaseModel):
    """Metadata in a shard's file, with which `vl-lst features join` checks that shards match.

    Args:
        number: 1-based number of the shard.
        count: Number of shards.
        start: Row of the shard's first image in the whole list.
        images: Number of images in the whole list.
        image_ids_sha256: `image_list_sha256` of the whole list.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: Positive
    count: Positive
    start: Annotated[int, Field(ge=0)]
    images: Positive
    image_ids_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def image_list_sha256(image_ids: Sequence[str]) -> str:
    """Return the SHA-256 of a list of image ids; it depends on their order."""
    digest = hashlib.sha256()
    for row, image_id in enumerate(image_ids):
        digest.update(f"\n{image_id}".encode() if row else image_id.encode())
    return digest.hexdigest()


def read_shard_record(file: h5py.File) -> ShardRecord | None:
    """Return the record in the attribute `shard`; `None` if it is missing.

    Raises:
        StoreError: The attribute is not a valid record.
    """
    text = read_text_attribute(file, SHARD_ATTRIBUTE, MAX_RECORD_LENGTH)
    if text is None:
        return None
    try:
        return ShardRecord.model_validate_json(text)
    except ValidationError as error:
        raise StoreError(
            f"the attribute {SHARD_ATTRIBUTE!r} cannot be read: {first_problem(error)}. Extract "
            "the shard again."
        ) from None
