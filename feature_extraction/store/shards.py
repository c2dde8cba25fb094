"""Which part of an extraction a process does, and what its file says about the whole.

Shards are cut from the sorted image list, and at multiples of the batch size where there are
enough images: the tower then sees the same batches as in one undivided run, so the shards hold the
same numbers to the last bit.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import h5py
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_extraction.errors import FeatureError, StoreError
from feature_extraction.store.texts import read_text

__all__ = ["SHARD_ATTRIBUTE", "Shard", "ShardRecord", "image_list_sha256", "read_shard_record"]

SHARD_ATTRIBUTE = "shard"
LONGEST_RECORD = 4096
Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several processes that divide a folder of photographs between them.

    Args:
        number: Which, counted from 1, as every scheduler of job arrays can.
        count: Of how many.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `I/N`, such as `3/8`.

        Raises:
            FeatureError: It is not that, or I is not in 1..N.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise FeatureError(
                f"the shard is {text!r:.80}, expected I/N with I from 1 to N, such as 1/8 for the "
                "first of eight; let the job array count from 1"
            )
        return cls(int(match[1]), int(match[2]))

    def path(self, whole: Path) -> Path:
        """Name this shard's file: `val.shard-3-of-8.h5` beside `val.h5`."""
        return whole.with_name(f"{whole.stem}.shard-{self.number}-of-{self.count}{whole.suffix}")

    def rows(self, images: int, batch_size: int) -> range:
        """Say which rows of the whole list are this shard's.

        Raises:
            FeatureError: There are fewer images than shards.
        """
        if images < self.count:
            raise FeatureError(
                f"{images:,} images cannot be divided into {self.count:,} shards; take at most "
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
    """What a shard's file says about the whole; `features join` verifies shards by it.

    Args:
        number: Which shard it is, counted from 1.
        count: Of how many.
        start: Row of its first image in the whole list.
        images: Images in the whole list.
        image_ids_sha256: Of the whole list, by `image_list_sha256`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: Positive
    count: Positive
    start: Annotated[int, Field(ge=0)]
    images: Positive
    image_ids_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def image_list_sha256(image_ids: Sequence[str]) -> str:
    """Return the SHA-256 of image ids in their order."""
    digest = hashlib.sha256()
    for row, image_id in enumerate(image_ids):
        digest.update(f"\n{image_id}".encode() if row else image_id.encode())
    return digest.hexdigest()


def read_shard_record(file: h5py.File) -> ShardRecord | None:
    """Read the attribute `shard`; `None` where there is none.

    Raises:
        StoreError: It is there and is not a shard's record.
    """
    text = read_text(file, SHARD_ATTRIBUTE, LONGEST_RECORD)
    if text is None:
        return None
    try:
        return ShardRecord.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise StoreError(
            f"the attribute 'shard' is not one this program reads: {first['msg']}. Extract the "
            "shard again."
        ) from None
