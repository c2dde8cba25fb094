"""Write an HDF5 file so that writing can be interrupted at any point and resumed.

While `FILE.h5` is being written, there is a folder `FILE.h5.partial` with

    features        the later file, of features or not: only its data so far, at their final offset
    journal.jsonl   a header (settings, table of contents), then one line per batch

Data are synced to disk before their journal line is written, so the journal is right even after the
process is killed or the power fails; a truncated last line is dropped. The metadata is written at
the end: it is laid out in a sparse file in memory, and its bytes are copied around the data. Data
are written only once, `finish` can be repeated, and until the final rename the file cannot be
mistaken for a complete one.
"""

import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from pydantic import BaseModel, ValidationError

from feature_extraction.errors import StoreError
from feature_extraction.sizes import needed_and_free
from feature_extraction.store.disk import (
    copy_range,
    require_regular_file,
    sync_path,
    write_all,
    write_at,
    write_error,
)
from feature_extraction.store.hdf5_writer import memory_file
from feature_extraction.store.outputs import (
    locked_folder,
    move_into_place,
    partial_folder,
    remove_locked_folder,
    resolve_link,
)

__all__ = ["JOURNAL", "Blocks", "Progress", "ResumableWriter"]

SECONDS_BETWEEN_COMMITS = 1.0
JOURNAL = "journal.jsonl"
FILES = ("features", JOURNAL, "layout")

Header = TypeVar("Header", bound=BaseModel)
Entry = TypeVar("Entry", bound=BaseModel)
Line = TypeVar("Line", bound=BaseModel)
# Offset and end of each block of data in a file.
Blocks = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How much of a file is written.

    Args:
        done: Number of items that are written.
        total: Number of all items.
        pending_bytes: Size of the data that are still to be written.
        items: What they are, such as `images`.
        data: What is written of each, such as `features`.
    """

    done: int
    total: int
    pending_bytes: int
    items: str
    data: str


class ResumableWriter(ABC, Generic[Header, Entry]):
    """Writer of a file; resumes unfinished work on the same file.

    A context manager that locks the folder of unfinished work. Leaving the block without `finish`
    keeps that work for the next writer. Subclasses describe the file, and call `_open` at the end
    of their constructor.

    Args:
        out: Path of the finished file.
        header_type: Class of the journal's first line.
        entry_type: Class of its other lines.
        max_journal_bytes: Upper bound on the size of the journal.

    Raises:
        StoreError: A path in the folder is not a regular file, or the journal is too large.
    """

    def __init__(
        self,
        out: Path,
        header_type: type[Header],
        entry_type: type[Entry],
        *,
        max_journal_bytes: int,
    ) -> None:
        self._out = out
        self._target = resolve_link(out)
        self._folder = partial_folder(out)
        self._header_type = header_type
        self._entry_type = entry_type
        self._uncommitted: list[str] = []
        self._committed_at = time.monotonic()
        for name in FILES:
            require_regular_file(self._folder / name)
        self._check_journal_size(max_journal_bytes)

    @abstractmethod
    def _write_layout(self, handle: int, name: Path) -> Blocks:
        """Create the file without its data; see `feature_extraction.store.layout.write_layout`."""

    @abstractmethod
    def _header(self, blocks: Blocks) -> Header:
        """Return the header of this run.

        Args:
            blocks: Where the data are in the file.
        """

    @abstractmethod
    def _differences(self, found: Header, wanted: Header) -> list[str]:
        """Describe how the header of the unfinished work differs from that of this run."""

    @abstractmethod
    def _apply(self, entry: Entry) -> bool:
        """Take note of a batch that is written; return whether the entry is valid."""

    @abstractmethod
    def _progress(self) -> Progress:
        """Return how much is written."""

    def _open(self) -> None:
        """Lock the folder, and read the journal of an earlier run, or begin a new one.

        Raises:
            StoreError: Another process writes to the file, the unfinished work is another, there is
                not enough disk space, or the folder cannot be written.
        """
        with self._explain_errors(), ExitStack() as on_failure:
            # Decoding processes can outlive a killed extraction by seconds, but do not inherit its
            # lock.
            on_failure.enter_context(
                locked_folder(
                    self._folder,
                    f"another process is writing {self._out}; wait for it to end, or choose "
                    "another --out",
                )
            )
            self._journal = os.open(self._folder / JOURNAL, os.O_RDWR | os.O_CREAT, 0o666)
            on_failure.callback(os.close, self._journal)
            if not (self._folder / "features").exists():
                os.truncate(self._journal, 0)
            # HDF5 determines the offset of the data: write a layout to find it, and discard that.
            with memory_file() as layout:
                self._blocks = self._write_layout(layout, self._folder / "layout")
            self._read_journal(self._header(self._blocks))
            self._data = os.open(self._folder / "features", os.O_RDWR | os.O_CREAT, 0o666)
            on_failure.callback(os.close, self._data)
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

    def _write_data(self, data: memoryview, offset: int) -> None:
        """Write data of a batch at an offset of the file.

        Raises:
            StoreError: There is no space left. Committed batches are kept for the next run.
        """
        with self._explain_errors():
            write_at(self._data, data, offset)

    def _note(self, entry: Entry) -> None:
        """Take note of a batch whose data are written, and commit about once a second.

        Raises:
            StoreError: There is no space left.
        """
        self._uncommitted.append(entry.model_dump_json() + "\n")
        self._apply(entry)
        if time.monotonic() - self._committed_at >= SECONDS_BETWEEN_COMMITS:
            self.commit()

    def commit(self) -> None:
        """Make all batches so far durable: sync the data, then the journal.

        Raises:
            StoreError: There is no space left.
        """
        with self._explain_errors():
            os.fsync(self._data)
            write_all(self._journal, "".join(self._uncommitted).encode())
            os.fsync(self._journal)
        self._uncommitted.clear()
        self._committed_at = time.monotonic()

    def finish(self) -> None:
        """Write the metadata, move the finished file to its path, and remove the folder.

        Raises:
            StoreError: There is no space left, or items are still pending.
        """
        progress = self._progress()
        if progress.done < progress.total:
            raise StoreError(
                f"{progress.total - progress.done} {progress.items} of {self._out} are still "
                "pending"
            )
        self.commit()
        with self._explain_errors(), memory_file() as layout:
            blocks = self._write_layout(layout, self._folder / "layout")
            if blocks != self._blocks:
                raise StoreError(
                    f"{self._folder} was started with another HDF5 library, which put the "
                    f"{progress.data} at byte {self._blocks[0][0]}; this one puts them at "
                    f"{blocks[0][0]}. Remove the folder and run the command again."
                )
            size = os.fstat(layout).st_size
            # HDF5 may put a small dataset into a gap before an aligned one.
            ordered = sorted(blocks)
            starts = (0, *(end for _, end in ordered))
            ends = (*(start for start, _ in ordered), size)
            for start, end in zip(starts, ends, strict=True):
                copy_range(layout, self._data, start, end)
            os.truncate(self._data, size)
            move_into_place(self._folder / "features", self._target)
            remove_locked_folder(self._folder)

    def _read_journal(self, header: Header) -> None:
        """Read the batches of an earlier run, or write the header; then position at the end."""
        with os.fdopen(self._journal, "rb", closefd=False) as file:
            first, *lines = file.readlines() or [b""]
        found = _parse(self._header_type, first)
        if found is None:
            os.truncate(self._journal, 0)
            os.lseek(self._journal, 0, os.SEEK_SET)
            write_all(self._journal, (header.model_dump_json() + "\n").encode())
            os.fsync(self._journal)
            return
        differences = self._differences(found, header)
        if differences:
            raise StoreError(
                f"{self._folder} holds an unfinished extraction with other settings "
                f"({'; '.join(differences)}). Finish it with its settings, remove the folder, or "
                "choose another --out."
            )
        valid_bytes = len(first)
        for line in lines:
            entry = _parse(self._entry_type, line)
            if entry is None or not self._apply(entry):
                break
            valid_bytes += len(line)
        os.truncate(self._journal, valid_bytes)
        os.lseek(self._journal, 0, os.SEEK_END)

    def _check_journal_size(self, max_bytes: int) -> None:
        """Refuse a journal larger than any run writes, which could fill memory."""
        journal = self._folder / JOURNAL
        if journal.exists() and journal.stat().st_size > max_bytes:
            raise StoreError(
                f"{journal} has {journal.stat().st_size:,} bytes, expected at most "
                f"{max_bytes:,}: it is damaged. Remove the folder and run the same command again."
            )

    def _check_space(self) -> None:
        progress = self._progress()
        needed, free = progress.pending_bytes, shutil.disk_usage(self._folder).free
        if needed > free:
            raise StoreError(
                f"the {progress.data} of {progress.total - progress.done:,} {progress.items} need "
                f"{needed_and_free(needed, free)} at {self._target.parent}. {self._how_to_fit()}"
            )

    def _how_to_fit(self) -> str:
        """Return advice for a disk that is too small."""
        return "Free some space, or choose another --out."

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            progress = self._progress()
            kept = (
                f"{progress.done:,} of {progress.total:,} {progress.items} are done and kept in "
                f"{self._folder}."
            )
            raise write_error(self._out, error, kept if progress.done else "") from error


def _parse(model: type[Line], line: bytes) -> Line | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return model.model_validate_json(line)
    except ValidationError:
        return None
