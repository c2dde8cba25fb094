"""Checkpoints: folders that are replaced atomically and verified before they are read.

    checkpoints/last/   model.safetensors  training_state.safetensors  manifest.json
    checkpoints/best/   model.safetensors                              manifest.json

`model.safetensors` holds exactly the parameters that the method adds or trains. The manifest is
written last and lists each file with its size and SHA-256, so an incomplete folder is never taken
for a checkpoint.

A new checkpoint is written to a hidden folder (`.last.new`) and replaces the old one by two
renames. If the process is killed between them, `last` is missing and `.last.new` and `.last.old`
are complete; `find_checkpoint` then returns the new one.
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
from eval.regular_files import open_regular
from eval.run_files import read_run_file
from feature_extraction.store.disk import sync_path
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
# How often reading starts again because training has replaced the checkpoint.
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
    """Content of a checkpoint.

    Args:
        tensors: Tensors by file (`MODEL`, `TRAINING_STATE`) and name.
        state: Counters and other values that JSON can represent.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Save a checkpoint, replacing an existing one.

    If the process is killed or the disk is full, the old or the new checkpoint is still complete.

    Args:
        folder: Folder of the checkpoint, such as `RUN/checkpoints/last`.
        checkpoint: Content to save.

    Raises:
        CheckpointError: The checkpoint cannot be written; an existing one is unchanged.
    """
    new, old = _new_and_old(folder)
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
        sync_path(folder.parent)
        _remove(old)
    except (OSError, SafetensorError) as error:
        _remove(new, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        # safetensors wraps the message of the operating system in its own.
        if (no_space := os.strerror(errno.ENOSPC)) in str(reason):
            reason = no_space
        raise CheckpointError(
            f"cannot write the checkpoint {folder}: {reason}. The previous checkpoint is intact. "
            "Free some disk space if it is full, then run the same command again with --resume."
        ) from error


def find_checkpoint(folder: Path) -> Path | None:
    """Return the folder in which a checkpoint is complete.

    Args:
        folder: Folder of the checkpoint, such as `RUN/checkpoints/last`.

    Returns:
        `folder` itself; a hidden folder next to it if the process that saved the checkpoint was
        killed; or `None` if there is no checkpoint.
    """
    if folder.exists():
        return folder
    for candidate in _new_and_old(folder):
        try:
            _checked_manifest(candidate)
        except CheckpointError:
            continue
        return candidate
    return None


def remove_leftovers(folder: Path) -> None:
    """Finish what a killed process left undone: rename its checkpoint, remove its other folders.

    Args:
        folder: Folder of the checkpoint, such as `RUN/checkpoints/last`.
    """
    found = find_checkpoint(folder)
    if found is None:
        return
    if found != folder:
        found.rename(folder)
    for leftover in _new_and_old(folder):
        _remove(leftover, ignore_errors=True)


def load_checkpoint(folder: Path, *names: str) -> Checkpoint:
    """Load a checkpoint after verifying that it is complete.

    If training replaces it during the call, the new one is loaded.

    Args:
        folder: Folder of the checkpoint, such as `RUN/checkpoints/best`.
        names: Files to load (`MODEL`, `TRAINING_STATE`).

    Raises:
        CheckpointError: The checkpoint is missing or incomplete, or its files have changed.
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
    """Return values that change when another folder takes the name of this one."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_ctime_ns


def _load(folder: Path, *names: str) -> Checkpoint:
    found = find_checkpoint(folder)
    if found is None:
        raise CheckpointError(
            f"no checkpoint {folder}: training has not saved it yet, or the folder was moved. "
            "Resume training with `vl-lst train --resume --out RUN`."
        )
    manifest = _checked_manifest(found)
    tensors = {}
    for name in names:
        if name + SUFFIX not in manifest.files:
            raise CheckpointError(
                f"{found} contains {', '.join(manifest.files)}; expected {name}{SUFFIX} as well"
            )
        with _damage_explained(found):
            tensors[name] = load_file(found / (name + SUFFIX))
    return Checkpoint(tensors, manifest.state)


def load_parameters(
    parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor], *, source: Path
) -> None:
    """Copy saved tensors into parameters with the same names and shapes.

    Args:
        parameters: Parameters to overwrite, by name.
        saved: Tensors of a checkpoint, by name.
        source: Folder of the checkpoint, for messages.

    Raises:
        CheckpointError: Names or shapes differ, so the checkpoint belongs to another model.
    """
    missing = sorted(parameters.keys() - saved.keys())
    extra = sorted(saved.keys() - parameters.keys())
    if missing or extra:
        raise CheckpointError(
            f"{source} belongs to another model: {len(missing)} parameters are missing "
            f"({', '.join(missing[:3])}) and {len(extra)} are unknown ({', '.join(extra[:3])})"
        )
    for name, parameter in parameters.items():
        if parameter.shape != saved[name].shape:
            raise CheckpointError(
                f"{source} belongs to another model: {name} has the shape "
                f"{list(saved[name].shape)}, expected {list(parameter.shape)}"
            )
    for name, parameter in parameters.items():
        parameter.data.copy_(saved[name])


def _new_and_old(folder: Path) -> tuple[Path, Path]:
    """Return the hidden folders for a checkpoint being written and for the one it replaces."""
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    files = {}
    for name, tensors in checkpoint.tensors.items():
        path = folder / (name + SUFFIX)
        save_file({key: t.detach().contiguous().cpu() for key, t in tensors.items()}, path)
        files[path.name] = _describe(path)
        sync_path(path)
    manifest = _Manifest(files=files, state=dict(checkpoint.state))
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(manifest.model_dump(), file, indent=2, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    sync_path(folder)


def _describe(path: Path) -> _File:
    with open_regular(
        path, expected="tensors", max_bytes=MAX_TENSORS_BYTES, read_again=True
    ) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _File(bytes=path.stat().st_size, sha256=digest)


def _checked_manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    try:
        path.stat()  # its error names the file
        content = read_run_file(path, expected="the manifest of a checkpoint")
        manifest = _Manifest.model_validate(content)
        for name, expected in manifest.files.items():
            size = (folder / name).stat().st_size
            if size != expected.bytes:
                raise _incomplete(folder, f"{name} has {size:,} of {expected.bytes:,} bytes")
            if _describe(folder / name) != expected:
                raise _incomplete(
                    folder, f"{name} has been changed or damaged (its SHA-256 differs)"
                )
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
        f"the checkpoint {folder} is not complete: {what}. Copy the whole folder again from its "
        "source, or remove it and train again."
    )


@contextmanager
def _damage_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _incomplete(folder, str(error)) from None


def _remove(folder: Path, *, ignore_errors: bool = False) -> None:
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=ignore_errors)
