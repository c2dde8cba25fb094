"""Outputs of every command: checked before work; pipes are kept; `-` is standard output."""

import inspect
import io
import json
import os
import stat
import sys
import threading
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer
from command_tree import COMMANDS

from eval.errors import OutputError
from eval.outputs import atomic_path
from tests.board_runs import write_run
from vl_lst.cli import main

# Options that name inputs.
INPUTS = {
    "--data-root",
    "--train-file",
    "--val-file",
    "--images",
    "--image",
    "--features",
    "--states",
    "--file",
    "--predictions",
    "--check-submission",
    "--encoder-weights",
}


def path_options(name: str) -> dict[str, Any]:
    """The options of a command that are paths, by name."""
    found = {}
    function = inspect.unwrap(COMMANDS[name].callback)
    for parameter, hint in get_type_hints(function, include_extras=True).items():
        for info in getattr(hint, "__metadata__", ()):
            if isinstance(info, typer.models.OptionInfo) and "Path" in str(hint.__origin__):
                # In `Annotated` typer keeps the first declared name as the default.
                found[
                    info.default
                    if isinstance(info.default, str)
                    else f"--{parameter.replace('_', '-')}"
                ] = info
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_path_option_is_read_or_checked_before_work(name: str) -> None:
    options = path_options(name)
    assert "--json" in options
    unchecked = {n for n, info in options.items() if n not in INPUTS and info.callback is None}
    assert not unchecked


@pytest.fixture
def score(tmp_path: Path) -> list[str]:
    """A command that scores predictions of two examples in a moment."""
    examples = [
        {"id": "a", "images": ["x.jpg"], "prompt": "what?", "answers": ["cat"]},
        {"id": "b", "images": ["x.jpg"], "prompt": "who?", "answers": ["猫"]},
    ]
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps(each) + "\n" for each in examples), encoding="utf-8")
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps([{"id": i, "answer": "cat"} for i in "ab"]))
    return ["score", "--task", "gqa", "--file", str(own), "--predictions", str(predictions)]


def test_a_report_on_standard_output_is_alone_there(
    score: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("-", "/dev/stdout") if Path("/dev/stdout").exists() else ("-",):
        assert main([*score, "--json", path]) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out)["metrics"]["accuracy"] == 50.0
        assert "accuracy" in captured.err
    assert main(score) == 0
    assert "accuracy" in capsys.readouterr().out


def test_two_reports_never_share_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link.csv").symlink_to("board.csv")
    runs = str(tmp_path)
    for first, second in (("-", "-"), (tmp_path / "board.csv", tmp_path / "link.csv")):
        arguments = ["leaderboard", runs, "--csv", str(first), "--markdown", str(second)]
        assert main(arguments) == 1
        assert "both write" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["link.csv"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["train", "--out", "-"], "a run"),
        (["demo", "--out", "-"], "a folder"),
        (["extract-features", "--images", "x", "--out", "-"], "a feature file"),
        (["features", "import", "x", "--out", "-"], "a feature file"),
        (["features", "join", "x", "--out", "-"], "a feature file"),
        (["features", "compress", "x", "--out", "-"], "a feature file"),
        (["features", "export", "x", "--format", "h5", "--out", "-"], "a folder"),
        (["profile", "--backbone", "t5-small", "--plot", "-"], "a plot"),
    ],
)
def test_outputs_that_are_not_reports_are_refused_on_standard_output(
    arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert f"{what} cannot go to standard output" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_profile_checks_its_outputs_before_it_measures(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*arguments: object) -> None:
        pytest.fail("nothing may be measured")

    monkeypatch.setattr("vl_lst.profiling.measure.profile_methods", measure)
    (tmp_path / "file").write_text("")
    arguments = ["profile", "--backbone", "t5-small", "--random-weights", "--dry-run"]
    assert main([*arguments, option, str(tmp_path / "file" / "x.svg")]) == 1
    error = capsys.readouterr().err
    assert f"cannot write {tmp_path}/file/x.svg" in error
    assert f"{tmp_path}/file is a file, expected a folder" in error


def test_results_are_printed_even_if_writing_fails(
    score: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(file: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", fail)
    assert main([*score, "--json", str(tmp_path / "scores.json")]) == 1
    captured = capsys.readouterr()
    assert "50.00" in captured.out
    assert f"cannot write {tmp_path}/scores.json: no space left" in captured.err


def test_a_pipe_gets_the_report_and_stays_a_pipe(score: list[str], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    assert main([*score, "--json", str(pipe)]) == 0
    reader.join(30)
    assert json.loads(received[0])["task"] == "gqa"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_report_is_utf8_on_any_terminal(
    score: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main([*score, "--json", "-"]) == 0
    assert json.loads(stream.buffer.getvalue().decode("utf-8"))["task"] == "gqa"  # type: ignore[attr-defined]


class FailingStream(io.StringIO):
    """A stream on a full disk, or whose reader closed it."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, os.strerror(28)), BrokenPipeError()])
def test_a_report_is_written_even_if_nothing_can_be_printed(
    error: OSError,
    score: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdout", FailingStream(error))
    assert main([*score, "--json", str(tmp_path / "scores.json")]) == 1
    assert json.loads((tmp_path / "scores.json").read_bytes())["task"] == "gqa"
    printed = capsys.readouterr().err
    assert ("cannot write to standard output: No space left" in printed) == (error.errno == 28)


def test_a_full_standard_error_ends_no_command(
    score: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", FailingStream(OSError(28, os.strerror(28))))
    assert main([*score, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "gqa"


def test_a_report_that_cannot_be_written_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_for_csv(path: Path) -> Any:
        if path.suffix == ".csv":
            raise OutputError(f"cannot write {path}: no space left")
        return atomic_path(path)

    monkeypatch.setattr("vl_lst.cli._outputs.atomic_path", fail_for_csv)
    write_run(tmp_path / "runs", "a")
    outputs = {option: str(tmp_path / f"board.{option[2:]}") for option in ("--csv", "--json")}
    named = [text for pair in outputs.items() for text in pair]
    page = str(tmp_path / "board.html")
    assert main(["leaderboard", str(tmp_path / "runs"), "--out", page, *named]) == 1
    assert capsys.readouterr().err.count("error:") == 1
    assert json.loads((tmp_path / "board.json").read_bytes())
    assert not (tmp_path / "board.csv").exists()


def test_a_check_prints_its_findings_even_if_its_report_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path) -> Any:
        raise OutputError(f"cannot write {path}: no space left")

    monkeypatch.setattr("vl_lst.cli._outputs.atomic_path", fail)
    arguments = ["data", "check", "--task", "vqa", "--data-root", str(tmp_path)]
    assert main([*arguments, "--json", str(tmp_path / "x.json")]) == 1
    printed = capsys.readouterr().err
    assert "no space left" in printed
    assert "questions.json" in printed
