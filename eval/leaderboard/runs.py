"""The runs below a folder: their `record.json`, and why some of them do not count."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.errors import InputError
from eval.files import MAX_RUN_FILE_BYTES, read_json

__all__ = ["FoundRuns", "LeftOut", "Memory", "Parameters", "Record", "Run", "find_runs"]

RECORD = "record.json"
CARD = "model.json"
# Code that shows a record recurses into it; a recipe has six levels.
MAX_NESTING = 50

Count = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    # What later versions add, and what does not matter here, is no reason to refuse a record.
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class Git(_Part):
    """The checkout a run's code came from."""

    commit: str
    dirty: bool
    changed_during_run: bool = False


class Parameters(_Part):
    """How much of a model trains."""

    trainable: Count
    total: Count
    percent_of_total: Annotated[float, Field(ge=0, le=100)]


class Memory(_Part):
    """Where memory goes while training, in bytes."""

    parameters: Count | None = None
    gradients: Count | None = None
    optimizer_state: Count | None = None
    saved_for_backward: dict[str, Count] | None = None
    peak_allocated: Count | None = None
    peak_reserved: Count | None = None


class Record(_Part):
    """What the leaderboard reads of `record.json`; `vl_lst.runs.record` says what it means."""

    schema_version: Literal[1]
    status: Literal["success", "failed", "cancelled"]
    error: str | None = None
    method: str
    tasks: Annotated[list[str], Field(min_length=1)]
    protocol: dict[str, str | None]
    scores: dict[str, dict[str, dict[str, Any]]]
    best_step: Count | None = None
    steps: Count | None = None
    total_steps: Count | None = None
    parameters: Parameters | None = None
    memory_bytes: Memory | None = None
    examples_per_second: Amount | None = None
    train_seconds: Amount | None = None
    seed: Count
    feature_spec_sha256: str | None = None
    backbone: str
    backbone_fingerprint: str | None = None
    num_processes: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    git: Git | None = None
    earlier_git: list[Git] = []
    environment: dict[str, str] = {}
    packages: dict[str, str | None] = {}
    python: str | None = None
    device: str | None = None
    recipe: dict[str, Any]

    def validation_split(self, task: str) -> str | None:
        """The split that chose the task's best checkpoint, as the recipe has it."""
        data = self.recipe.get("data")
        named = data.get("validation_split") if isinstance(data, dict) else None
        split = named.get(task) if isinstance(named, dict) else None
        return split if isinstance(split, str) else None


@dataclass(frozen=True, slots=True)
class Run:
    """One run that counts.

    Args:
        name: Its folder, relative to the one that was searched.
        folder: Its folder.
        record: What came of it.
        train_digests: Digest of the ids of each task's training examples, where it is known.
        validation_digests: The same of its validation examples.
    """

    name: str
    folder: Path
    record: Record
    train_digests: dict[str, str]
    validation_digests: dict[str, str]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A run that does not count, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class FoundRuns:
    """All runs below a folder, in the order of their names."""

    runs: tuple[Run, ...]
    left_out: tuple[LeftOut, ...]


def find_runs(folder: Path, *, include_dirty: bool = False) -> FoundRuns:
    """Read every `record.json` in a folder and below it.

    A run counts when it ended with success and its code was one clean checkout from start to end.
    An installed package has no checkout (`git` is null) and counts too: its version says what the
    code was.

    Args:
        folder: Where to look.
        include_dirty: Also take runs whose code had been changed without a commit, or changed
            while they trained.

    Raises:
        InputError: There is no such folder, or no run in it.
    """
    if not folder.is_dir():
        found = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(
            f"{folder} {found}; expected a folder with runs in it, as `vl-lst train --out` makes "
            "them"
        )
    runs: list[Run] = []
    left_out: list[LeftOut] = []
    unreadable: list[OSError] = []
    for path in _record_files(folder, unreadable.append):
        name = _name(path.parent, folder)
        try:
            record = _read_record(path)
        except (InputError, OSError) as error:
            left_out.append(LeftOut(name, _printable(f"unreadable record: {error}")))
            continue
        reason = _reason_against(record, include_dirty=include_dirty)
        if reason is None:
            cards = _task_cards(path.parent)
            train = {task: card.train_examples_sha256 for task, card in cards.items()}
            validation = {
                task: digest
                for task, card in cards.items()
                if (digest := card.validation_examples_sha256) is not None
            }
            runs.append(Run(name, path.parent, record, train, validation))
        else:
            left_out.append(LeftOut(name, reason))
    left_out += [
        LeftOut(_name(Path(error.filename), folder), f"unreadable folder: {error.strerror}")
        for error in unreadable
    ]
    if not runs and not left_out:
        raise InputError(
            f"{folder} holds no run: found no {RECORD} in it or below it; expected run folders as "
            "`vl-lst train --out` makes them. Train something first, or give another folder."
        )
    return FoundRuns(tuple(runs), tuple(left_out))


def _record_files(folder: Path, on_error: Callable[[OSError], None]) -> Iterator[Path]:
    seen: set[str] = set()
    # Runs may be links to another disk; each folder counts once, so links cannot go in circles.
    for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        # What begins with a dot is hidden, or was left half written.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if RECORD in files or RECORD in folders:
            # A folder of this name is reported, not ignored.
            yield Path(parent) / RECORD
        folders[:] = [name for name in folders if name != RECORD]


def _name(run: Path, searched: Path) -> str:
    relative = run.relative_to(searched).as_posix()
    return _printable(run.resolve().name if relative == "." else relative)


def _printable(text: str) -> str:
    """Text that can be written as UTF-8, whatever bytes a file name is made of."""
    return os.fsencode(text).decode("utf-8", "replace") if not _is_unicode(text) else text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_record(path: Path) -> Record:
    content = read_json(path, expected="the record of a run", max_bytes=MAX_RUN_FILE_BYTES)
    try:
        # A lone surrogate, NaN or an infinity could not be written again.
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise InputError("it holds text or a number that JSON does not allow") from None
    if _is_deeper_than(content, MAX_NESTING):
        raise InputError(f"it is nested more than {MAX_NESTING} levels deep")
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or "the record"
        raise InputError(f"{field}: {first['msg']}") from None


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


def _reason_against(record: Record, *, include_dirty: bool) -> str | None:
    if record.status != "success":
        return f"{record.status}: {record.error}" if record.error else record.status
    if include_dirty:
        return None
    checkouts = [*record.earlier_git, *([record.git] if record.git else [])]
    commits = list(dict.fromkeys(checkout.commit[:12] for checkout in checkouts))
    if any(checkout.dirty for checkout in checkouts):
        reason = "its code had been changed without a commit"
    elif len(commits) > 1:
        reason = f"its sessions were trained with code of different commits ({', '.join(commits)})"
    elif any(checkout.changed_during_run for checkout in checkouts):
        reason = "its code was changed while it trained"
    else:
        return None
    return f"{reason} (--include-dirty takes such runs as well)"


def _task_cards(folder: Path) -> "dict[str, _TaskCard]":
    """From the run's `model.json`; nothing where there is none or it is damaged."""
    try:
        content = read_json(
            folder / CARD, expected="the card of a run's model", max_bytes=MAX_RUN_FILE_BYTES
        )
        card = _Card.model_validate(content)
    except (InputError, OSError, ValidationError):
        return {}
    return card.tasks


class _TaskCard(_Part):
    train_examples_sha256: str
    validation_examples_sha256: str | None = None


class _Card(_Part):
    tasks: dict[str, _TaskCard]
