"""The runs in a folder, and the reasons why some of them are left out."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from eval.errors import InputError
from eval.run_files import (
    MODEL_FILE,
    RECORD_FILE,
    ModelCard,
    RunRecord,
    TaskCard,
    first_problem,
    read_run_file,
)
from eval.text import is_utf8

__all__ = ["FoundRuns", "LeftOutRun", "Run", "find_runs", "read_record"]

# Code that displays a record is recursive. A recipe has six levels.
MAX_NESTING = 50


@dataclass(frozen=True, slots=True)
class Run:
    """A run that can be compared.

    Args:
        name: Path of the run's folder, relative to the folder that was searched.
        folder: Folder of the run.
        record: Content of its `record.json`.
        train_digests: Digest of the training examples by task, if known; see `TaskCard`.
        validation_digests: Digest of the validation examples by task, if known.
    """

    name: str
    folder: Path
    record: RunRecord
    train_digests: dict[str, str]
    validation_digests: dict[str, str]


@dataclass(frozen=True, slots=True)
class LeftOutRun:
    """A run that is left out of the comparison.

    Args:
        name: As in `Run`.
        reason: Why it is left out.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class FoundRuns:
    """All runs in a folder and its subfolders, sorted by name.

    Args:
        runs: Runs to compare.
        left_out: Runs that are left out.
    """

    runs: tuple[Run, ...]
    left_out: tuple[LeftOutRun, ...]


def find_runs(folder: Path, *, include_dirty: bool = False) -> FoundRuns:
    """Read every `record.json` in a folder and its subfolders.

    A run is compared if it succeeded and its code was one clean git checkout from start to end.
    Runs of an installed package have no checkout (`git` is null) and are compared too: the
    package's version identifies the code.

    Args:
        folder: Folder to search.
        include_dirty: Include runs whose code had uncommitted changes, or changed during training.

    Raises:
        InputError: There is no such folder, or it contains no runs.
    """
    if not folder.is_dir():
        found = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {found}; expected a folder with runs of `vl-lst train --out`")
    runs: list[Run] = []
    left_out: list[LeftOutRun] = []
    unreadable: list[OSError] = []
    for path in _record_files(folder, unreadable.append):
        name = _name(path.parent, folder)
        try:
            record = read_record(path)
        except (InputError, OSError) as error:
            left_out.append(LeftOutRun(name, _printable(f"unreadable record: {error}")))
            continue
        reason = _reason_against(record, include_dirty=include_dirty)
        if reason is None:
            cards = _task_cards(path.parent)
            train = {
                task: digest
                for task, card in cards.items()
                if (digest := card.train_examples_sha256) is not None
            }
            validation = {
                task: digest
                for task, card in cards.items()
                if (digest := card.validation_examples_sha256) is not None
            }
            runs.append(Run(name, path.parent, record, train, validation))
        else:
            left_out.append(LeftOutRun(name, reason))
    left_out += [
        LeftOutRun(_name(Path(error.filename), folder), f"unreadable folder: {error.strerror}")
        for error in unreadable
    ]
    if not runs and not left_out:
        raise InputError(
            f"{folder} holds no run: found no {RECORD_FILE} in it or its subfolders; expected "
            "run folders of `vl-lst train --out`. Train a model first, or choose another folder."
        )
    return FoundRuns(tuple(runs), tuple(left_out))


def _record_files(folder: Path, on_error: Callable[[OSError], None]) -> Iterator[Path]:
    seen: set[str] = set()
    # Runs may be links to another disk. Visiting each folder once ends cycles of links.
    for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        # Hidden folders, and those that an interrupted process left incomplete.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if RECORD_FILE in files or RECORD_FILE in folders:
            # A folder with this name is reported, not ignored.
            yield Path(parent) / RECORD_FILE
        folders[:] = [name for name in folders if name != RECORD_FILE]


def _name(run: Path, searched: Path) -> str:
    relative = run.relative_to(searched).as_posix()
    return _printable(run.resolve().name if relative == "." else relative)


def _printable(text: str) -> str:
    """Return text that can be written as UTF-8, whatever bytes a file name consists of."""
    return text if is_utf8(text) else os.fsencode(text).decode("utf-8", "replace")


def read_record(path: Path) -> RunRecord:
    """Read the record of a run.

    Args:
        path: Its `record.json`.

    Raises:
        InputError: There is no such file, or it is damaged.
    """
    content = read_run_file(path, expected="the record of a run")
    try:
        # Lone surrogates, NaN and infinities could not be written to the leaderboard's files.
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise InputError("it contains text or a number that JSON does not allow") from None
    if _is_deeper_than(content, MAX_NESTING):
        raise InputError(f"it is nested more than {MAX_NESTING} levels deep")
    try:
        return RunRecord.read_leniently(content)
    except ValidationError as error:
        raise InputError(first_problem(error)) from None


def _is_deeper_than(content: object, levels: int) -> bool:
    inside = [content]
    for _ in range(levels):
        inside = [
            each
            for value in inside
            if isinstance(value, dict | list)
            for each in (value.values() if isinstance(value, dict) else value)
        ]
    return bool(inside)


def _reason_against(record: RunRecord, *, include_dirty: bool) -> str | None:
    if record.status != "success":
        return f"{record.status}: {record.error}" if record.error else record.status
    if include_dirty:
        return None
    checkouts = [*record.earlier_git, *([record.git] if record.git else [])]
    commits = list(dict.fromkeys(checkout.commit[:12] for checkout in checkouts))
    if any(checkout.dirty for checkout in checkouts):
        reason = "its code had uncommitted changes"
    elif len(commits) > 1:
        reason = f"its sessions ran code of different commits ({', '.join(commits)})"
    elif any(checkout.changed_during_run for checkout in checkouts):
        reason = "its code changed during training"
    else:
        return None
    return f"{reason} (--include-dirty includes such runs)"


def _task_cards(folder: Path) -> dict[str, TaskCard]:
    """Return the tasks in a run's `model.json`; none if it is missing or damaged."""
    try:
        content = read_run_file(folder / MODEL_FILE, expected="the model card of a run")
        return ModelCard.read_leniently(content).tasks
    except (InputError, OSError, ValidationError):
        return {}
