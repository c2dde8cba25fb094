"""A store under way: what survives a kill, and how it becomes the finished file.

While `FILE.h5` is being made there is a folder `FILE.h5.partial` with

    features        the finished file in the making: features at their final offset, nothing else
    journal.jsonl   a header (spec, image list), then a line per batch: its rows, and their fate

Features reach the disk before the line that speaks for them, so a row the journal calls done is
done, after a kill and after a power failure; a last line cut short is dropped. The metadata is
written at the end: laid out in a sparse file in memory, its bytes copied around the features.
Until the file takes its final name nothing can mistake it for a whole store, features are written
once, and the finishing can be repeated.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_extraction.errors import StoreError
from feature_extraction.sizes import needed_and_free
from feature_extraction.spec import FeatureSpec
from feature_extraction.store.disk import (
    copy_range,
    is_out_of_space,
    require_regular_file,
    sync_folder,
    write_all,
    write_at,
)
from feature_extraction.store.hdf5_writer import memory_file
from feature_extraction.store.layout import Status, write_layout
from feature_extraction.store.shards import ShardRecord, image_list_sha256
from feature_extraction.store.store import FeatureStore
from feature_extraction.store.targets import (
    check_target,
    link_target,
    locked_folder,
    partial_folder,
    remove_folder,
)

# N images of a batch, V tokens, C channels

__all__ = ["Batch", "PartialStore", "check_target", "partial_folder"]

SECONDS_BETWEEN_COMMITS = 1.0
# A line has the fate of at least one image, and the header a specification.
JOURNAL_BYTES = 2**14
FILES = ("features", "journal.jsonl", "layout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Neighbouring images of a store, and what became of each.

    Args:
        start: Row of the first.
        features: float16 `[images, tokens, channels]`; zeros where the image failed.
        image_size: int32 `[images, 2]`, height and width; zeros where it failed.
        reasons: Why each image failed; empty for those that did not.
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


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    start: Annotated[int, Field(ge=0)]
    image_size: list[tuple[int, int]]
    reasons: list[str]


Line = TypeVar("Line", bound=BaseModel)


class PartialStore:
    """An extraction under way; a context manager that keeps others out of its folder.

    Args:
        out: Where the finished store goes.
        spec: How its features are made.
        image_ids: Its images, in order.
        shard: Which part of a larger extraction it is; `None` for a whole one.

    Raises:
        StoreError: Another process is at it, it was begun with other settings or images, there is
            not enough space, or its folder cannot be written.
    """

    def __init__(
        self,
        out: Path,
        spec: FeatureSpec,
        image_ids: Sequence[str],
        shard: ShardRecord | None = None,
    ) -> None:
        self._out = out
        self._target = link_target(out)
        self._folder = partial_folder(out)
        self._spec = spec
        self._image_ids = image_ids
        self._shard = shard
        self._image_bytes = spec.tokens * spec.channels * np.dtype(np.float16).itemsize
        images = len(self._image_ids)
        self.status: NDArray[np.uint8] = np.full(images, Status.PENDING, np.uint8)
        self.image_size: NDArray[np.int32] = np.zeros((images, 2), np.int32)
        self.reasons = [""] * images
        self._uncommitted: list[str] = []
        self._committed_at = time.monotonic()
        for name in FILES:
            require_regular_file(self._folder / name)
        self._check_journal_size()
        with self._explained(), ExitStack() as on_failure:
            # Decoding processes take some seconds to notice that this one was killed; the lock is
            # free at once.
            on_failure.enter_context(
                locked_folder(
                    self._folder,
                    f"another process is writing {out}; wait for it to end, or choose another "
                    "--out",
                )
            )
            self._journal = os.open(self._folder / "journal.jsonl", os.O_RDWR | os.O_CREAT, 0o666)
            on_failure.callback(os.close, self._journal)
            if not (self._folder / "features").exists():
                os.truncate(self._journal, 0)
            self._read_journal(self._header())
            self._features = os.open(self._folder / "features", os.O_RDWR | os.O_CREAT, 0o666)
            on_failure.callback(os.close, self._features)
            self._check_space()
            sync_folder(self._folder)
            self._opened = on_failure.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            # What was done before the trouble is kept, unless the trouble is with the disk.
            if self._uncommitted and not isinstance(error, StoreError):
                self.commit()
        finally:
            self._opened.close()

    def write(self, batch: Batch) -> None:
        """Take over one batch; about once a second what has come is made safe.

        Raises:
            StoreError: There is no space left; what was made safe is kept for a later run.
        """
        features_NVC = np.ascontiguousarray(batch.features, np.dtype("<f2"))
        with self._explained():
            offset = self._offset + batch.start * self._image_bytes
            write_at(self._features, features_NVC.data.cast("B"), offset)
        entry = _Entry(
            start=batch.start,
            image_size=[(int(height), int(width)) for height, width in batch.image_size],
            reasons=list(batch.reasons),
        )
        self._uncommitted.append(entry.model_dump_json() + "\n")
        self._take(entry)
        if time.monotonic() - self._committed_at >= SECONDS_BETWEEN_COMMITS:
            self.commit()

    def adopt(self, store: FeatureStore, *, start: int = 0, redone: Set[int] = frozenset()) -> None:
        """Take over what a finished store holds, all but some rows.

        Args:
            store: Of the same spec, and of these images from `start` on.
            start: Row of its first image.
            redone: Rows to leave pending.

        Raises:
            StoreError: There is no space left, or the store cannot be read.
        """
        for row, image_id in enumerate(store.listed_ids, start):
            if row in redone or self.status[row] != Status.PENDING:
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

    def commit(self) -> None:
        """Make what was written survive a power failure: features first, then their entries.

        Raises:
            StoreError: There is no space left.
        """
        with self._explained():
            os.fsync(self._features)
            write_all(self._journal, "".join(self._uncommitted).encode())
            os.fsync(self._journal)
        self._uncommitted.clear()
        self._committed_at = time.monotonic()

    def finish(self) -> None:
        """Turn the features into the finished store, and remove the folder.

        Raises:
            StoreError: There is no space left, or images are still pending.
        """
        pending = int((self.status == Status.PENDING).sum())
        if pending:
            raise StoreError(f"{pending} images of {self._out} are still pending")
        self.commit()
        with self._explained(), memory_file() as layout:
            offset = self._write_layout(layout)
            if offset != self._offset:
                raise StoreError(
                    f"{self._folder} was begun with another HDF5 library, which put the features "
                    f"at byte {self._offset}; this one puts them at {offset}. Remove the folder "
                    "and run the command again."
                )
            block_end = offset + len(self._image_ids) * self._image_bytes
            size = os.fstat(layout).st_size
            for start, end in ((0, offset), (block_end, size)):
                copy_range(layout, self._features, start, end)
            os.truncate(self._features, size)
            os.fsync(self._features)
            os.replace(self._folder / "features", self._target)
            sync_folder(self._target.parent)
            remove_folder(self._folder)

    def _header(self) -> _Header:
        # The place of the features is asked of HDF5 itself, with a layout that is thrown away.
        with memory_file() as layout:
            offset = self._write_layout(layout)
        self._offset = offset
        return _Header(
            spec=self._spec,
            images=len(self._image_ids),
            image_ids_sha256=image_list_sha256(self._image_ids),
            features_offset=offset,
            shard=self._shard,
        )

    def _write_layout(self, handle: int) -> int:
        return write_layout(
            handle,
            self._folder / "layout",
            self._spec,
            self._image_ids,
            self.status,
            self.image_size,
            self.reasons,
            self._shard,
        )

    def _read_journal(self, header: _Header) -> None:
        """Take over what an earlier run did, or begin; leaves the journal ready for appending."""
        with os.fdopen(self._journal, "rb", closefd=False) as file:
            first, *lines = file.readlines() or [b""]
        found = _parse(_Header, first)
        if found is None:
            os.truncate(self._journal, 0)
            os.lseek(self._journal, 0, os.SEEK_SET)
            write_all(self._journal, (header.model_dump_json() + "\n").encode())
            os.fsync(self._journal)
            return
        self._check_same(found, header)
        valid_bytes = len(first)
        for line in lines:
            entry = _parse(_Entry, line)
            if entry is None or not self._fits(entry):
                break
            self._take(entry)
            valid_bytes += len(line)
        os.truncate(self._journal, valid_bytes)
        os.lseek(self._journal, 0, os.SEEK_END)

    def _check_same(self, found: _Header, wanted: _Header) -> None:
        differences = found.spec.differences(wanted.spec)
        if found.spec.to_json() != wanted.spec.to_json() and not differences:
            differences = [
                f"{name}: {version} there, {wanted.spec.packages.get(name)} now"
                for name, version in found.spec.packages.items()
                if version != wanted.spec.packages.get(name)
            ]
        if found.image_ids_sha256 != wanted.image_ids_sha256:
            differences.append(f"images: {found.images} there, {wanted.images} now, other names")
        elif found.shard != wanted.shard:
            differences.append("shard of other images: the whole list has changed")
        if differences:
            raise StoreError(
                f"{self._folder} holds an unfinished extraction with other settings "
                f"({'; '.join(differences)}). Finish it with those, or remove the folder, or "
                "choose another --out."
            )

    def _check_journal_size(self) -> None:
        """Refuse a journal that would fill memory: no run writes as much for each image."""
        journal, images = self._folder / "journal.jsonl", len(self._image_ids)
        if journal.exists() and journal.stat().st_size > JOURNAL_BYTES * (1 + images):
            raise StoreError(
                f"{journal} has {journal.stat().st_size:,} bytes, more than {images:,} images "
                "need: it is damaged. Remove the folder, and run the same command again."
            )

    def _fits(self, entry: _Entry) -> bool:
        rows = len(entry.reasons)
        return rows == len(entry.image_size) and entry.start + rows <= len(self._image_ids)

    def _take(self, entry: _Entry) -> None:
        for row, (size, reason) in enumerate(
            zip(entry.image_size, entry.reasons, strict=True), start=entry.start
        ):
            self.status[row] = Status.FAILED if reason else Status.DONE
            self.image_size[row] = size
            self.reasons[row] = reason

    def _check_space(self) -> None:
        pending = int((self.status == Status.PENDING).sum())
        needed = pending * self._image_bytes
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise StoreError(
                f"the features of {pending:,} images need {needed_and_free(needed, free)} at "
                f"{self._target.parent}. Free some space, or choose another --out."
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if is_out_of_space(error):
                done = int((self.status != Status.PENDING).sum())
                raise StoreError(
                    f"no space left on the device for {self._out}, after {done:,} of "
                    f"{len(self._image_ids):,} images. What is done is kept in {self._folder}: "
                    "free some space and run the same command again to go on."
                ) from None
            raise StoreError(
                f"cannot write {self._out}: {error.strerror or error}. What is done is kept in "
                f"{self._folder}; run the same command again to go on."
            ) from error


def _parse(model: type[Line], line: bytes) -> Line | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return model.model_validate_json(line)
    except ValidationError:
        return None
