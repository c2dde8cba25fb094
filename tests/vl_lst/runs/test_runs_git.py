"""A record contains the git state of the code that trained."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_run import TinyWorld

from eval.run_files import GitState
from vl_lst.cli import main
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.git import git_state
from vl_lst.runs.record import read_record
from vl_lst.training import session

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        check=True,
        capture_output=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
    )


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A module in a folder of a clean checkout."""
    path = tmp_path / "checkout" / "package" / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text("x = 1\n")
    (tmp_path / "checkout" / "other.txt").write_text("1\n")
    git(path.parents[1], "init", "-q")
    git(path.parents[1], "add", ".")
    git(path.parents[1], "commit", "-q", "-m", "first")
    return path


def state_of(module: Path) -> GitState:
    state = git_state(module)
    assert state is not None
    return state


def test_an_untracked_module_makes_the_checkout_dirty(module: Path) -> None:
    """A new method, for example, is a new file that runs before it is committed."""
    clean = state_of(module)
    assert (clean.dirty, clean.diff_sha256) == (False, None)
    (module.parents[1] / "script.py").write_text("")
    (module.parent / "notes.txt").write_text("")
    (module.parent / ".#module.py").symlink_to("editor@host.1")
    (module.parent / "endless.py").symlink_to("/dev/zero")
    assert state_of(module) == clean, "no part of the package's code"
    (module.parent / "méthode.py").write_text("y = 1\n")
    added = state_of(module)
    assert added.dirty
    (module.parent / "méthode.py").write_text("y = 2\n")
    assert state_of(module).diff_sha256 != added.diff_sha256


def test_changes_anywhere_in_the_checkout_count_whatever_the_configuration(module: Path) -> None:
    git(module.parents[1], "config", "diff.relative", "true")
    (module.parents[1] / "other.txt").write_text("2\n")
    assert state_of(module).dirty


def test_a_checkout_that_git_cannot_read_is_reported(
    module: Path, caplog: pytest.LogCaptureFixture
) -> None:
    untracked = module.with_name("new.py")
    untracked.write_text("")
    assert git_state(untracked) is None
    assert caplog.text == "", "an installed package in some other repository"
    (module.parents[1] / ".git" / "HEAD").write_text("damaged")
    assert git_state(module) is None
    assert "git cannot read the checkout of the code" in caplog.text


def test_a_run_with_images_records_the_checkout_before_extraction(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feature_extraction import extract as extraction

    before, after = (GitState(commit=letter * 40, dirty=False) for letter in "ab")
    state = before

    def extract(*arguments: object, **keywords: object) -> object:
        nonlocal state
        state = after
        return original(*arguments, **keywords)  # type: ignore[arg-type]

    original = extraction.extract
    monkeypatch.setattr(extraction, "extract", extract)
    for place in ("vl_lst.runs.git.git_state", f"{session.__name__}.git_state"):
        monkeypatch.setattr(place, lambda: state)
    out = tmp_path / "run"
    arguments = world.train_arguments(out, "--quiet", "--encoder", str(world.tower))
    place = arguments.index("--features")
    arguments[place : place + 3] = ["--images", str(world.root / "images")]
    assert main(arguments) == 0
    record = read_record(RunDirectory(out))
    assert record is not None
    assert record.git == before.model_copy(update={"changed_during_run": True})
