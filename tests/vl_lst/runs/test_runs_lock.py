"""One process at a time trains in a run's folder, and no update of a record is lost."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from tiny_run import TinyWorld

from tasks import Score
from vl_lst.cli import main
from vl_lst.errors import CheckpointError
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.lock import exclusive_folder, record_lock
from vl_lst.runs.record import add_scores, read_record
from vl_lst.training.session import train

REPOSITORY = Path(__file__).resolve().parents[3]
HOLD = """
import sys
from pathlib import Path
from vl_lst.runs.lock import exclusive_folder, record_lock
with {lock}(Path({folder!r})):
    print("held", flush=True)
    sys.stdin.readline()
    {then}
"""


@contextmanager
def held_elsewhere(lock: str, folder: Path, then: str = "") -> Iterator["subprocess.Popen[str]"]:
    """Start another process that holds a lock until it reads a line, then runs `then`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(lock=lock, folder=str(folder), then=then)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_learns_who_trains_in_the_folder(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with held_elsewhere("exclusive_folder", out) as process:
        for more in ((), ("--resume",)):
            assert main(world.train_arguments(out, "--quiet", *more)) == 1
            message = capsys.readouterr().err
            assert f"{out} is in use: process {process.pid} on " in message
            assert "has used it since 20" in message
        assert [path.name for path in out.iterdir()] == [".lock"]
    # The killed process left its file, and no lock.
    assert (out / ".lock").exists()
    assert main(world.train_arguments(out, "--quiet")) == 0
    assert not (out / ".lock").exists()


def test_the_lock_is_held_from_extraction_to_the_end_of_training(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train --images` prepares the folder before it trains."""
    out, seen = tmp_path / "run", []
    from vl_lst.training import session

    def look(*_arguments: object, **_keywords: object) -> None:
        seen.append((out / ".lock").exists())
        raise KeyboardInterrupt

    monkeypatch.setattr(session._Session, "run", look)
    arguments = world.train_arguments(out, "--quiet", "--encoder", str(world.tower))
    place = arguments.index("--features")
    arguments[place : place + 3] = ["--images", str(world.root / "images")]
    assert main(arguments) == 130
    assert seen == [True]
    assert (out / "features.h5").exists()
    assert not (out / ".lock").exists()


def test_two_demos_do_not_share_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held_elsewhere("exclusive_folder", tmp_path):
        assert main(["demo", "--out", str(tmp_path), "--quiet"]) == 1
    assert f"{tmp_path} is in use" in capsys.readouterr().err


def test_locks_nest_in_a_thread_and_keep_others_out(tmp_path: Path) -> None:
    refused: list[str] = []

    def enter() -> None:
        try:
            with exclusive_folder(tmp_path):
                pass
        except CheckpointError as error:
            refused.append(str(error))

    with exclusive_folder(tmp_path):
        with exclusive_folder(tmp_path / ".." / tmp_path.name):
            pass
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert "another thread of this process" in refused[0]
        assert (tmp_path / ".lock").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("lock", "name"), [(exclusive_folder, ".lock"), (record_lock, ".record.lock")]
)
def test_a_folder_or_link_in_place_of_a_lock_file_is_reported(
    lock: Callable[[Path], AbstractContextManager[None]], name: str, tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match=f"{name} is a folder: .* Remove it"), lock(tmp_path):
        pass
    (tmp_path / name).rmdir()
    (tmp_path / name).symlink_to(tmp_path / "target")
    with pytest.raises(CheckpointError, match=f"{name} is a link: .* Remove it"), lock(tmp_path):
        pass
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "[" * 4000, "\xff", '{"pid": 1, "host": "\\u001b[31m", "since": "now"}'],
)
def test_an_unreadable_lock_file_still_locks(tmp_path: Path, content: str) -> None:
    with held_elsewhere("exclusive_folder", tmp_path):
        (tmp_path / ".lock").write_text(content, encoding="latin-1")
        with (
            pytest.raises(CheckpointError, match="another process uses it"),
            exclusive_folder(tmp_path),
        ):
            pass


def test_scores_added_by_two_processes_are_both_kept(world: TinyWorld, tmp_path: Path) -> None:
    """The other process has read the record, and writes it while this one waits."""
    out = tmp_path / "run"
    best_step = train(world.recipe(), out).best_step
    assert best_step is not None
    record = json.loads((out / "record.json").read_text())
    record["scores"]["vqa"]["train2014"] = {"accuracy": 1.0}
    (tmp_path / "theirs.json").write_text(json.dumps(record))
    theirs = f"Path({str(tmp_path / 'theirs.json')!r}).replace({str(out / 'record.json')!r})"
    ours = Score(metrics={"accuracy": 2.0}, per_example={}, protocol="p", examples=1, reasons={})
    with held_elsewhere("record_lock", out, theirs) as process:
        thread = threading.Thread(
            target=add_scores,
            args=(RunDirectory(out), "vqa", "test-own", ours),
            kwargs={"best_step": best_step},
        )
        thread.start()
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        thread.join()
    found = read_record(RunDirectory(out))
    assert found is not None
    assert found.scores["vqa"].keys() == {"val2014", "train2014", "test-own"}
