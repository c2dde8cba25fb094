"""Write a feature store so that writing can be interrupted at any point and resumed.

The journal (`feature_extraction.store.resumable_writer`) has the spec and the image list in its
header, and the rows of a batch and their status in each line.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_extraction.spec import FeatureSpec
from feature_extraction.store.disk import require_regular_file
from feature_extraction.store.layout import Metadata, Status, write_layout
from feature_extraction.store.outputs import partial_folder
from feature_extraction.store.resumable_writer import JOURNAL, Blocks, Progress, ResumableWriter
from feature_extraction.store.shards import ShardRecord, image_list_sha256
from feature_extraction.store.source import Source, describe_source
from feature_extraction.store.store import FeatureStore

# N images of a batch, V tokens, C channels

__all__ = ["Batch", "StoreWriter", "unfinished_source"]

# Upper bound per image: a line covers at least one image. The header also fits into it.
MAX_JOURNAL_BYTES = 2**14


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Results for consecutive images of a store.

    Args:
        start: Row of the first image.
        features: float16 `[images, tokens, channels]`; zeros if the image failed.
        image_size: int32 `[images, 2]`, height and width in pixels; zeros if the image failed.
        reasons: Reason for each image that failed; empty for the others.
    """

    start: int
    features: NDArray[np.float16]
    image_size: NDArray[np.int32]
    reasons: Sequence[str]


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    journal: Literal[1] = 1
    spec: FeatureSpec
    images: int
    image_ids_sha256: str
    features_offset: int
    shard: ShardRecord | None = None
    source: Source | None = None


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    start: Annotated[int, Field(ge=0)]
    image_size: list[tuple[int, int]]
    reasons: list[str]


class StoreWriter(ResumableWriter[_Header, _Entry]):
    """Writer of a feature store; resumes unfinished work on the same file.

    A context manager that locks the folder of unfinished work. Leaving the block without `finish`
    keeps that work for the next writer.

    Args:
        out: Path of the finished store.
        spec: Settings of the features.
        image_ids: Ids of the images, in order.
        shard: Which part of a larger extraction the store holds; `None` for a complete one.
        source: Where the features are downloaded from; `None` if they are not.

    Raises:
        StoreError: Another process writes to `out`, the unfinished work has other settings or
            images, there is not enough disk space, or the folder cannot be written.
    """

    def __init__(
        self,
        out: Path,
        spec: FeatureSpec,
        image_ids: Sequence[str],
        shard: ShardRecord | None = None,
        source: Source | None = None,
    ) -> None:
        images = len(image_ids)
        super().__init__(out, _Header, _Entry, max_journal_bytes=MAX_JOURNAL_BYTES * (1 + images))
        self._spec = spec
        self._image_ids = image_ids
        self._shard = shard
        self._source = source
        self._image_bytes = spec.tokens * spec.channels * np.dtype(np.float16).itemsize
        self.status: NDArray[np.uint8] = np.full(images, Status.PENDING, np.uint8)
        self.image_size: NDArray[np.int32] = np.zeros((images, 2), np.int32)
        self.reasons = [""] * images
        self._open()

    def write(self, batch: Batch) -> None:
        """Write one batch, and commit about once a second.

        Raises:
            StoreError: There is no space left. Committed batches are kept for the next run.
        """
        features_NVC = np.ascontiguousarray(batch.features, np.dtype("<f2"))
        ((offset, _),) = self._blocks
        self._write_data(features_NVC.data.cast("B"), offset + batch.start * self._image_bytes)
        self._note(
            _Entry(
                start=batch.start,
                image_size=[(int(height), int(width)) for height, width in batch.image_size],
                reasons=list(batch.reasons),
            )
        )

    def copy_from(
        self, store: FeatureStore, *, start: int = 0, skip: Set[int] = frozenset()
    ) -> None:
        """Copy images from a finished store into pending rows.

        Args:
            store: Store with the same spec; its images are consecutive images of this one.
            start: Row of its first image in this store.
            skip: Rows to leave pending.

        Raises:
            StoreError: There is no space left, or the store cannot be read.
        """
        for row, image_id in enumerate(store.listed_ids, start):
            if row in skip or self.status[row] != Status.PENDING:
                continue
            features_NVC = np.zeros((1, store.tokens, store.channels), np.float16)
            image_size = (0, 0)
            if image_id in store:
                features_NVC[0] = store[image_id]
                image_size = store.image_size(image_id)
            self.write(
                Batch(
                    start=row,
                    features=features_NVC,
                    image_size=np.array([image_size], np.int32),
                    reasons=[store.failures.get(image_id, "")],
                )
            )

    def _header(self, blocks: Blocks) -> _Header:
        return _Header(
            spec=self._spec,
            images=len(self._image_ids),
            image_ids_sha256=image_list_sha256(self._image_ids),
            features_offset=blocks[0][0],
            shard=self._shard,
            source=self._source,
        )

    def _write_layout(self, handle: int, name: Path) -> Blocks:
        metadata = Metadata(
            spec=self._spec,
            image_ids=self._image_ids,
            status=self.status,
            image_size=self.image_size,
            reasons=self.reasons,
            shard=self._shard,
            source=self._source,
        )
        offset = write_layout(handle, name, metadata)
        return ((offset, offset + len(self._image_ids) * self._image_bytes),)

    def _differences(self, found: _Header, wanted: _Header) -> list[str]:
        differences = found.spec.differences(wanted.spec)
        if found.spec.to_json() != wanted.spec.to_json() and not differences:
            differences = [
                f"{name}: found {version}, expected {wanted.spec.packages.get(name)}"
                for name, version in found.spec.packages.items()
                if version != wanted.spec.packages.get(name)
            ]
        if found.image_ids_sha256 != wanted.image_ids_sha256:
            differences.append(
                f"images: found {found.images:,}, expected {wanted.images:,} (the lists of names "
                "differ)"
            )
        elif found.shard != wanted.shard:
            differences.append("shard: the whole image list has changed")
        if found.source != wanted.source:
            differences.append(
                f"source: found {describe_source(found.source)}, expected "
                f"{describe_source(wanted.source)}"
            )
        return differences

    def _apply(self, entry: _Entry) -> bool:
        rows = len(entry.reasons)
        if rows != len(entry.image_size) or entry.start + rows > len(self._image_ids):
            return False
        for row, (size, reason) in enumerate(
            zip(entry.image_size, entry.reasons, strict=True), start=entry.start
        ):
            self.status[row] = Status.FAILED if reason else Status.DONE
            self.image_size[row] = size
            self.reasons[row] = reason
        return True

    def _progress(self) -> Progress:
        done, images = int((self.status != Status.PENDING).sum()), len(self.status)
        return Progress(
            done=done,
            total=images,
            pending_bytes=(images - done) * self._image_bytes,
            items="images",
            data="features",
        )


def unfinished_source(out: Path) -> Source | None:
    """Return the source in the journal of unfinished work on `out`; `None` if there is none."""
    journal = partial_folder(out) / JOURNAL
    require_regular_file(journal)
    try:
        with journal.open("rb") as file:
            return _Header.model_validate_json(file.readline(MAX_JOURNAL_BYTES)).source
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
