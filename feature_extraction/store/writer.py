"""Write a feature store so that writing can be interrupted at any point and resumed.

While `FILE.h5` is being written, there is a folder `FILE.h5.partial` with

    features        the later store: only the features so far, at their final offset
    journal.jsonl   a header (spec, image list), then one line per batch: its rows and their status

Features are synced to disk before their journal line is written, so the journal is right even after
the process is killed or the power fails; a truncated last line is dropped. The metadata is written
at the end: it is laid out in a sparse file in memory, and its bytes are copied around the features.
Features are written only once, `finish` can be repeated, and until the final rename the file cannot
be mistaken for a complete store.
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
    require_regular_file,
    sync_path,
    write_all,
    write_at,
    write_error,
)
from feature_extraction.store.hdf5_writer import memory_file
from feature_extraction.store.layout import Metadata, Status, write_layout
from feature_extraction.store.outputs import (
    locked_folder,
    move_into_place,
    partial_folder,
    remove_locked_folder,
    resolve_link,
)
from feature_extraction.store.shards import ShardRecord, image_list_sha256
from feature_extraction.store.store import FeatureStore

# N images of a batch, V tokens, C channels

__all__ = ["Batch", "StoreWriter"]

SECONDS_BETWEEN_COMMITS = 1.0
# Upper bound per image: a line covers at least one image. The header also fits into it.
MAX_JOURNAL_BYTES = 2**14
FILES = ("features", "journal.jsonl", "layout")


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


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    start: Annotated[int, Field(ge=0)]
    image_size: list[tuple[int, int]]
    reasons: list[str]


Line = TypeVar("Line", bound=BaseModel)


class StoreWriter:
    """Writer of a feature store; resumes unfinished work on the same file.

    A context manager that locks the folder of unfinished work. Leaving the block without `finish`
    keeps that work for the next writer.

    Args:
        out: Path of the finished store.
        spec: Settings of the features.
        image_ids: Ids of the images, in order.
        shard: Which part of a larger extraction the store holds; `None` for a complete one.

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
    ) -> None:
        self._out = out
        self._target = resolve_link(out)
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
        with self._explain_errors(), ExitStack() as on_failure:
            # Decoding processes can outlive a killed extraction by seconds, but do not inherit its
            # lock.
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
            sync_path(self._folder)
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
            # Keep finished batches, unless the error is about the disk.
            if self._uncommitted and not isinstance(error, StoreError):
                self.commit()
        finally:
            self._opened.close()

    def write(self, batch: Batch) -> None:
        """Write one batch, and commit about once a second.

        Raises:
            StoreError: There is no space left. Committed batches are kept for the next run.
        """
        features_NVC = np.ascontiguousarray(batch.features, np.dtype("<f2"))
        with self._explain_errors():
            offset = self._offset + batch.start * self._image_bytes
            write_at(self._features, features_NVC.data.cast("B"), offset)
        entry = _Entry(
            start=batch.start,
            image_size=[(int(height), int(width)) for height, width in batch.image_size],
            reasons=list(batch.reasons),
        )
        self._uncommitted.append(entry.model_dump_json() + "\n")
        self._apply(entry)
        if time.monotonic() - self._committed_at >= SECONDS_BETWEEN_COMMITS:
            self.commit()

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

    def commit(self) -> None:
        """Make all batches so far durable: sync the features, then the journal.

        Raises:
            StoreError: There is no space left.
        """
        with self._explain_errors():
            os.fsync(self._features)
            write_all(self._journal, "".join(self._uncommitted).encode())
            os.fsync(self._journal)
        self._uncommitted.clear()
        self._committed_at = time.monotonic()

    def finish(self) -> None:
        """Write the metadata, move the finished store to its path, and remove the folder.

        Raises:
            StoreError: There is no space left, or images are still pending.
        """
        pending = int((self.status == Status.PENDING).sum())
        if pending:
            raise StoreError(f"{pending} images of {self._out} are still pending")
        self.commit()
        with self._explain_errors(), memory_file() as layout:
            offset = self._write_layout(layout)
            if offset != self._offset:
                raise StoreError(
                    f"{self._folder} was started with another HDF5 library, which put the features "
                    f"at byte {self._offset}; this one puts them at {offset}. Remove the folder "
                    "and run the command again."
                )
            block_end = offset + len(self._image_ids) * self._image_bytes
            size = os.fstat(layout).st_size
            for start, end in ((0, offset), (block_end, size)):
                copy_range(layout, self._features, start, end)
            os.truncate(self._features, size)
            move_into_place(self._folder / "features", self._target)
            remove_locked_folder(self._folder)

    def _header(self) -> _Header:
        # HDF5 determines the offset of the features: write a layout to find it, and discard that.
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
        metadata = Metadata(
            spec=self._spec,
            image_ids=self._image_ids,
            status=self.status,
            image_size=self.image_size,
            reasons=self.reasons,
            shard=self._shard,
        )
        return write_layout(handle, self._folder / "layout", metadata)

    def _read_journal(self, header: _Header) -> None:
        """Read the batches of an earlier run, or write the header; then position at the end."""
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
            self._apply(entry)
            valid_bytes += len(line)
        os.truncate(self._journal, valid_bytes)
        os.lseek(self._journal, 0, os.SEEK_END)

    def _check_same(self, found: _Header, wanted: _Header) -> None:
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
        if differences:
            raise StoreError(
                f"{self._folder} holds an unfinished extraction with other settings "
                f"({'; '.join(differences)}). Finish it with its settings, remove the folder, or "
                "choose another --out."
            )

    def _check_journal_size(self) -> None:
        """Refuse a journal larger than any run writes, which could fill memory."""
        journal, images = self._folder / "journal.jsonl", len(self._image_ids)
        if journal.exists() and journal.stat().st_size > MAX_JOURNAL_BYTES * (1 + images):
            raise StoreError(
                f"{journal} has {journal.stat().st_size:,} bytes, more than {images:,} images "
                "need: it is damaged. Remove the folder and run the same command again."
            )

    def _fits(self, entry: _Entry) -> bool:
        rows = len(entry.reasons)
        return rows == len(entry.image_size) and entry.start + rows <= len(self._image_ids)

    def _apply(self, entry: _Entry) -> None:
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
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            done, images = int((self.status != Status.PENDING).sum()), len(self.status)
            kept = f"{done:,} of {images:,} images are done and kept in {self._folder}."
            raise write_error(self._out, error, kept if done else "") from error


def _parse(model: type[Line], line: bytes) -> Line | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return model.model_validate_json(line)
    except ValidationError:
        return None
