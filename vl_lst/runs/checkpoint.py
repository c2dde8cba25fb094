"""Checkpoints: folders that are replaced whole, and checked whole before anything is read.

    checkpoints/last/   model.safetensors  training_state.safetensors  manifest.json
    checkpoints/best/   model.safetensors                              manifest.json

`model.safetensors` holds exactly what trains. The manifest is written last and lists each file
with its size and SHA-256, so an incomplete folder is never taken for a checkpoint.

A new checkpoint is written beside the old one and then takes its name by two renames. Killed
between them, `last` is missing and both neighbours are there; `find_checkpoint` knows.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eval.errors import FileFormatError, InputError
from eval.files import MAX_RUN_FILE_BYTES, read_json
from eval.regular_files import open_regular
from vl_lst.errors import CheckpointError

__all__ = [
    "MODEL",
    "TRAINING_STATE",
    "Checkpoint",
    "find_checkpoint",
    "load_checkpoint",
    "load_parameters",
    "remove_leftovers",
    "save_checkpoint",
]

MODEL = "model"
TRAINING_STATE = "training_state"
SUFFIX = ".safetensors"
MANIFEST = "manifest.json"
MAX_TENSORS_BYTES = 1 << 42
# How often a checkpoint may be replaced while it is read.
MAX_REPLACEMENTS = 5


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    files: dict[Annotated[str, Field(pattern=r"^[a-z_]+\.safetensors$")], _File]
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        tensors: Tensors by file (`MODEL`, `TRAINING_STATE`) and name.
        state: Counters and the like, as JSON holds them.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, replacing the one of that name if there is one.

    At any moment, killed or out of space, either the old or the new one can be found whole.

    Args:
        folder: Such as `RUN/checkpoints/last`.
        checkpoint: What to write.

    Raises:
        CheckpointError: It could not be written; what was there before is still there.
    """
    new, old = _neighbours(folder)
    try:
        if not folder.exists() and (complete := find_checkpoint(folder)) is not None:
            complete.rename(folder)
        _remove(new)
        new.mkdir(parents=True)
        _write(new, checkpoint)
        _remove(old)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        _sync_folder(folder.parent)
        _remove(old)
    except (OSError, SafetensorError) as error:
        _remove(new, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        # safetensors puts the system's words into a sentence of its own.
        if (no_space := os.strerror(errno.ENOSPC)) in str(reason):
            reason = no_space
        raise CheckpointError(
            f"the checkpoint {folder} could not be written ({reason}); the one before it is "
            "intact. Free some space if that is what is lacking, then run the same command again "
            "with --resume."
        ) from error


def find_checkpoint(folder: Path) -> Path | None:
    """Where the checkpoint of this name lies: under it, or beside it after an untimely end.

    Returns:
        The folder to load, or `None` where there is no checkpoint.
    """
    if folder.exists():
        return folder
    for neighbour in _neighbours(folder):
        try:
            _checked_manifest(neighbour)
        except CheckpointError:
            continue
        return neighbour
    return None


def remove_leftovers(folder: Path) -> None:
    """Give a checkpoint its name, if a killed process did not, and remove its leftovers.

    Args:
        folder: Such as `RUN/checkpoints/last`; a checkpoint that has been loaded.
    """
    found = find_checkpoint(folder)
    if found is None:
        return
    if found != folder:
        found.rename(folder)
    for neighbour in _neighbours(folder):
        _remove(neighbour, ignore_errors=True)


def load_checkpoint(folder: Path, *names: str) -> Checkpoint:
    """Read a checkpoint, after checking that it is complete.

    If training replaces it during the call, the new one is read.

    Args:
        folder: Such as `RUN/checkpoints/best`.
        names: The files wanted (`MODEL`, `TRAINING_STATE`).

    Raises:
        CheckpointError: There is none, it is incomplete, or its files were changed.
    """
    for _ in range(MAX_REPLACEMENTS):
        before = _identity(folder)
        try:
            checkpoint = _load(folder, *names)
        except CheckpointError:
            if _identity(folder) == before:
                raise
            continue
        if _identity(folder) == before:
            return checkpoint
    return _load(folder, *names)


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another of the same name that replaced it."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_ctime_ns


def _load(folder: Path, *names: str) -> Checkpoint:
    found = find_checkpoint(folder)
    if found is None:
        raise CheckpointError(
            f"no checkpoint {folder}: training writes it; it has not come that far, or the folder "
            "was moved. Continue it with `vl-lst train --resume --out RUN`."
        )
    manifest = _checked_manifest(found)
    tensors = {}
    for name in names:
        if name + SUFFIX not in manifest.files:
            raise CheckpointError(
                f"{found} holds {', '.join(manifest.files)}; expected {name}{SUFFIX} as well"
            )
        with _safetensors_problems(found):
            tensors[name] = load_file(found / (name + SUFFIX))
    return Checkpoint(tensors, manifest.state)


def load_parameters(
    parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor], *, source: Path
) -> None:
    """Copy saved tensors into parameters of the same names and shapes.

    Raises:
        CheckpointError: The names or shapes differ: the checkpoint is of another model.
    """
    missing = sorted(parameters.keys() - saved.keys())
    extra = sorted(saved.keys() - parameters.keys())
    if missing or extra:
        raise CheckpointError(
            f"{source} is not of this model: it lacks {len(missing)} of its parameters "
            f"({', '.join(missing[:3])}) and has {len(extra)} others ({', '.join(extra[:3])})"
        )
    for name, parameter in parameters.items():
        if parameter.shape != saved[name].shape:
            raise CheckpointError(
                f"{source} is not of this model: {name} is {list(saved[name].shape)}, expected "
                f"{list(parameter.shape)}"
            )
    for name, parameter in parameters.items():
        parameter.data.copy_(saved[name])


def _neighbours(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    files = {}
    for name, tensors in checkpoint.tensors.items():
        path = folder / (name + SUFFIX)
        save_file({key: t.detach().contiguous().cpu() for key, t in tensors.items()}, path)
        files[path.name] = _describe(path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    manifest = _Manifest(files=files, state=dict(checkpoint.state))
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(manifest.model_dump(), file, indent=2, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(folder)


def _describe(path: Path) -> _File:
    with open_regular(
        path, expected="tensors", max_bytes=MAX_TENSORS_BYTES, read_again=True
    ) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _File(bytes=path.stat().st_size, sha256=digest)


def _checked_manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    try:
        path.stat()  # names the file where there is none
        content = read_json(
            path, expected="the manifest of a checkpoint", max_bytes=MAX_RUN_FILE_BYTES
        )
        manifest = _Manifest.model_validate(content)
        for name, expected in manifest.files.items():
            size = (folder / name).stat().st_size
            if size != expected.bytes:
                raise _incomplete(folder, f"{name} has {size:,} of {expected.bytes:,} bytes")
            if _describe(folder / name) != expected:
                raise _incomplete(folder, f"{name} was changed or damaged (its SHA-256 differs)")
    except OSError as error:
        missing = Path(str(error.filename)).name
        raise _incomplete(folder, f"{missing}: {error.strerror}") from None
    except (FileFormatError, ValidationError):
        raise _incomplete(folder, f"{MANIFEST} is not the manifest of a checkpoint") from None
    except InputError as error:
        raise _incomplete(folder, str(error)) from None
    return manifest


def _incomplete(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {folder} is not complete: {what}. Copy the whole folder again from where "
        "it came from; or remove it and train again."
    )


@contextmanager
def _safetensors_problems(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _incomplete(folder, str(error)) from None


def _remove(folder: Path, *, ignore_errors: bool = False) -> None:
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=ignore_errors)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
