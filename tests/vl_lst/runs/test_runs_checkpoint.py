"""Checkpoints are saved completely or not at all, and verified when they are loaded."""

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vl_lst.errors import CheckpointError
from vl_lst.runs.checkpoint import (
    MODEL,
    TRAINING_STATE,
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    load_parameters,
    save_checkpoint,
)


def checkpoint(step: int, size: int = 3) -> Checkpoint:
    tensors = {MODEL: {"w": torch.full((size,), float(step))}, TRAINING_STATE: {"m": torch.ones(2)}}
    return Checkpoint(tensors, {"step": step, "loss": 0.1 + 0.2})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "last"
    save_checkpoint(path, checkpoint(1))
    return path


def test_a_loaded_checkpoint_is_bit_identical(folder: Path) -> None:
    loaded = load_checkpoint(folder, MODEL, TRAINING_STATE)
    assert loaded.state == {"step": 1, "loss": 0.1 + 0.2}
    assert torch.equal(loaded.tensors[MODEL]["w"], torch.ones(3))
    assert sorted(p.name for p in folder.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "training_state.safetensors",
    ]


def test_saving_again_leaves_no_other_folders(folder: Path) -> None:
    save_checkpoint(folder, checkpoint(2))
    assert load_checkpoint(folder).state["step"] == 2
    assert [p.name for p in folder.parent.iterdir()] == ["last"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_checkpoint_that_is_replaced_while_loading_is_loaded_completely(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """`evaluate` loads one of the two: no error, and no mix of both."""
    replaced = []

    def load(path: Path) -> dict[str, Tensor]:
        tensors = load_file(path) if moment == "after" else {}
        if not replaced:
            replaced.append(path)
            save_checkpoint(folder, checkpoint(2, size=4))
        return tensors or load_file(path)

    monkeypatch.setattr("vl_lst.runs.checkpoint.load_file", load)
    loaded = load_checkpoint(folder, MODEL)
    assert loaded.state["step"] == 2
    assert torch.equal(loaded.tensors[MODEL]["w"], torch.full((4,), 2.0))


class Killed(BaseException):
    """Simulates SIGKILL, after which no Python code runs."""


@contextmanager
def killed_at(event: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Raise at the n-th change of the file system and at every later one."""
    count = 0

    def wrap(module: object, name: str) -> None:
        original = getattr(module, name)

        def changed(*arguments: object, **keywords: object) -> object:
            nonlocal count
            count += 1
            if count >= event:
                raise Killed
            return original(*arguments, **keywords)

        patch.setattr(module, name, changed)

    with monkeypatch.context() as patch:
        wrap(os, "fsync")
        wrap(shutil, "rmtree")
        for name in ("rename", "mkdir"):
            wrap(Path, name)
        yield lambda: count


def test_one_checkpoint_is_complete_whenever_saving_is_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_at(10**6, monkeypatch) as changes:
        save_checkpoint(folder, checkpoint(2))
        events = changes()
    assert events >= 8
    outcomes = []
    for event in range(1, events + 1):
        shutil.rmtree(folder.parent)
        save_checkpoint(folder, checkpoint(1))
        with killed_at(event, monkeypatch), pytest.raises(Killed):
            save_checkpoint(folder, checkpoint(2))
        outcomes.append(load_checkpoint(folder, MODEL).state["step"])
        # The next save must neither fail because of leftovers nor lose a complete checkpoint.
        for later in range(1, events + 2):
            with killed_at(later, monkeypatch):
                try:
                    save_checkpoint(folder, checkpoint(3))
                except Killed:
                    assert load_checkpoint(folder, MODEL).state["step"] in (outcomes[-1], 3)
        save_checkpoint(folder, checkpoint(3))
        assert load_checkpoint(folder, MODEL).state["step"] == 3
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}


def test_a_full_disk_keeps_the_previous_checkpoint(folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write the checkpoint.*intact.*--resume"):
            save_checkpoint(folder, checkpoint(2, size=100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(folder, MODEL).state["step"] == 1
    assert [p.name for p in folder.parent.iterdir()] == ["last"]


def test_a_full_disk_is_reported_in_the_system_s_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if safetensors wraps the message."""

    def fail(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os)")

    monkeypatch.setattr("vl_lst.runs.checkpoint.save_file", fail)
    with pytest.raises(CheckpointError, match=r": No space left on device\."):
        save_checkpoint(folder, checkpoint(2))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("model.safetensors", Path.unlink, "model.safetensors: No such file"),
        ("model.safetensors", cut, "has .* of .* bytes"),
        ("training_state.safetensors", flip, "SHA-256"),
        ("manifest.json", Path.unlink, "manifest.json: No such file"),
        ("manifest.json", cut, "not the manifest"),
    ],
)
def test_an_incomplete_folder_is_refused(
    folder: Path, name: str, damage: Callable[[Path], None], words: str
) -> None:
    damage(folder / name)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(folder, MODEL)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_special_files_in_a_checkpoint_are_refused(
    folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    """Not even if the manifest says that they are empty, as their size does."""
    path = folder / name
    path.unlink()
    make(path)
    manifest = folder / "manifest.json"
    if name != manifest.name:
        content = json.loads(manifest.read_text())
        content["files"][name]["bytes"] = 0
        manifest.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="is not complete: .*expected a regular file"):
        load_checkpoint(folder, MODEL)


def test_a_manifest_cannot_name_files_in_other_folders(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("model.safetensors", "../model.safetensors"))
    with pytest.raises(CheckpointError, match="not the manifest"):
        load_checkpoint(folder, MODEL)


def test_a_missing_checkpoint_says_how_to_get_one(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "best") is None
    with pytest.raises(CheckpointError, match=r"no checkpoint .*--resume"):
        load_checkpoint(tmp_path / "best", MODEL)


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ({"a": torch.ones(2)}, "1 parameters are missing .*b"),
        ({"a": torch.ones(2), "b": torch.ones(1), "c": torch.ones(1)}, "1 are unknown .*c"),
        ({"a": torch.ones(3), "b": torch.ones(1)}, r"a has the shape \[3\], expected \[2\]"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(
    saved: dict[str, Tensor], words: str
) -> None:
    parameters = {"a": torch.zeros(2), "b": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=words):
        load_parameters(parameters, saved, source=Path("run"))
    assert not parameters["a"].any()
    assert not parameters["b"].any()
