"""A sweep through the command line: killed and resumed, with a failing run, and as commands."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_run import TinyWorld

from feature_extraction.cores import usable_cores
from vl_lst.cli import PREEMPTED, main
from vl_lst.cli._console import progress_bars
from vl_lst.cli._runs_progress import RunsProgress
from vl_lst.errors import CheckpointError, TrainingError
from vl_lst.progress import silent
from vl_lst.runs.lock import exclusive_folder

ROOT = Path(__file__).resolve().parents[3]
RUNS = ["lst/reduction=2/seed-0", "lst/reduction=3/seed-0", "ia3/seed-0"]
GRID = ["--grid", "method.name=lst,ia3", "--grid", "method.options.reduction=2,3"]
# Sends a signal to the sweep itself once a run has trained a few steps.
DISTURBED = """
import os, sys
from vl_lst.cli import PREEMPTED, main
from vl_lst.cli._runs_progress import RunsProgress
def disturb(self, name, done, total, note):
    if done >= int(sys.argv[2]):
        os.kill(os.getpid(), int(sys.argv[1]))
RunsProgress.on_progress = disturb
sys.exit(main(sys.argv[3:]))
"""


def arguments(world: TinyWorld, out: Path, *more: str) -> list[str]:
    """Return command line arguments of a sweep whose runs take a second."""
    settings = [
        *("data.min_answer_count=1", "visual.pooled_grid=null", "training.epochs=2"),
        *("training.batch_size=8", "training.device=cpu", "training.workers=0"),
        *("training.precision=fp32", "training.checkpoint_every_steps=1"),
    ]
    return [
        *("sweep", "--task", "vqa", "--data-root", str(world.root), "--out", str(out)),
        *("--features", str(world.train_features), str(world.validation_features)),
        *("--backbone", str(world.backbone), "--head", "classify"),
        *(word for setting in settings for word in ("--set", setting)),
        *more,
    ]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def content(run: Path) -> dict[str, object]:
    """What a run has learned: weights, losses and scores, and with which settings."""
    record = read(run / "record.json")
    return {
        "settings": record["recipe"],
        "scores": record["scores"],
        "metrics": (run / "metrics.jsonl").read_bytes(),
        "weights": {
            str(path.relative_to(run)): path.read_bytes()
            for path in sorted(run.glob("checkpoints/*/*.safetensors"))
        },
    }


@pytest.fixture(scope="module")
def swept(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of an undisturbed sweep, its report and output; one run cannot be trained."""
    folder = tmp_path_factory.mktemp("sweep")
    report = str(folder / "report.json")
    given = arguments(world, folder / "runs", *GRID, "--jobs", "2", "--json", report)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(given) == 1
    (folder / "out.txt").write_text(out.getvalue())
    (folder / "err.txt").write_text(err.getvalue())
    return folder


def test_a_failing_run_does_not_stop_the_others(swept: Path) -> None:
    report = read(swept / "report.json")
    assert {name: record is not None for name, record in report["runs"].items()} == {
        RUNS[0]: True,
        RUNS[1]: False,
        RUNS[2]: True,
    }
    assert "the reduction 3 does not divide" in report["failed"][RUNS[1]]
    assert read(swept / "runs" / RUNS[2] / "record.json")["status"] == "success"


def test_the_summary_has_scores_failures_and_what_was_left_out(swept: Path) -> None:
    printed, errors = (swept / "out.txt").read_text(), (swept / "err.txt").read_text()
    score = read(swept / "runs" / RUNS[0] / "record.json")["scores"]["vqa"]["val2014"]["accuracy"]
    rows = {words[0]: words[1] for line in printed.splitlines() if len(words := line.split()) == 2}
    assert rows[RUNS[0]] == f"{score:.2f}"
    assert rows[RUNS[1]] == "failed"
    assert "note: ia3: no option reduction, so runs without it" in errors
    end = errors[errors.index("1 of the 3 runs failed") :]
    assert f"{RUNS[1]}: the reduction 3 does not divide" in end


@pytest.mark.slow
def test_a_sweep_that_is_terminated_and_killed_equals_an_undisturbed_one(
    world: TinyWorld, swept: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    # Without the run that fails.
    grid = [*GRID[:3], "method.options.reduction=2"]
    given = arguments(world, runs, *grid, "--quiet", "--jobs", "2")

    def disturb(number: int, steps: int) -> subprocess.CompletedProcess[bytes]:
        words = [sys.executable, "-c", DISTURBED, str(number), str(steps), *given]
        return subprocess.run(words, cwd=ROOT, check=False, capture_output=True)

    terminated = disturb(signal.SIGTERM, 2)
    assert terminated.returncode == PREEMPTED, terminated.stderr.decode()
    assert b"Traceback" not in terminated.stderr
    statuses = {read(path)["status"] for path in runs.rglob("record.json")}
    assert "cancelled" in statuses
    assert disturb(signal.SIGKILL, 5).returncode == -signal.SIGKILL
    # Its processes must not train on: they would hold the locks of their folders.
    deadline = time.monotonic() + 20
    for name in (RUNS[0], RUNS[2]):
        while True:
            try:
                with exclusive_folder(runs / name):
                    break
            except CheckpointError:
                assert time.monotonic() < deadline, f"{name} is still training"
                time.sleep(0.1)
    assert main(given) == 0
    for name in (RUNS[0], RUNS[2]):
        assert content(runs / name) == content(swept / "runs" / name)


@pytest.mark.slow
def test_the_printed_commands_train_the_same_runs(
    world: TinyWorld, swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "it's $HOME; runs"
    assert main(arguments(world, runs, *GRID, "--print-commands")) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == len(RUNS)
    assert not runs.exists()
    script = tmp_path / "commands.sh"
    function = 'vl-lst() { "$PYTHON" -m vl_lst "$@" --quiet; }'
    script.write_text("\n".join([function, "set -e", commands[0]]))
    # The share of two parallel runs: sums of more threads are rounded differently.
    threads = str(max(1, usable_cores() // 2))
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": threads}
    subprocess.run(["bash", str(script)], cwd=ROOT, env=environment, check=True)
    assert content(runs / RUNS[0]) == content(swept / "runs" / RUNS[0])
    assert " --method ia3 " in commands[2]
    assert "reduction" not in commands[2]


def test_a_run_with_other_settings_is_refused_before_anything_is_trained(
    world: TinyWorld, swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = swept / "runs"
    given = arguments(world, runs, *GRID, "--seeds", "1,0", "--set", "optimizer.lr=5e-3")
    assert main(given) == 1
    message = capsys.readouterr().err
    assert "lst/reduction=2/seed-0: the run in" in message
    assert "optimizer.lr: 0.003 in the run, 0.005 given" in message
    assert not (runs / "lst" / "reduction=2" / "seed-1").exists()
    assert main(arguments(world, runs / RUNS[0], *GRID)) == 1
    assert "holds a single run: expected a new folder" in capsys.readouterr().err


def test_a_dry_run_says_what_is_left_to_do(
    world: TinyWorld, swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(world, swept / "runs", *GRID, "--seeds", "0,1", "--dry-run")) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "seed-" in line]
    states = {words[1]: words[-2] for words in lines}
    assert states == dict.fromkeys([RUNS[0], RUNS[2]], "finished") | dict.fromkeys(
        [RUNS[1], *(name.replace("seed-0", "seed-1") for name in RUNS)], "train"
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--grid", "method.options.reduction="], "found no value"),
        (["--grid", "reduction"], "expected [METHOD:]FIELD=VALUE"),
        (["--grid", "method.options.reduction=2,4,2"], "the value 2 is repeated"),
        (["--grid", "method.options.reduction=[2"], "not valid YAML"),
        (["--grid", "method.options.width=2"], "no method of the sweep has this option (lst)"),
        (["--grid", "ia3:method.options.reduction=2"], "the method ia3 has no option reduction"),
        (["--grid", "none:method.options.reduction=2"], "no method 'none'"),
        (["--grid", "lora:method.options.rank=2,4"], "no run trains lora"),
        (["--grid", "optimizer.rate=1"], "lst/rate=1/seed-0: the recipe is not valid"),
        (["--grid", "training.seed=1,2"], "set the seeds with --seeds"),
        (["--seeds", "1,1"], "the value 1 is repeated"),
        (["--seeds", "one"], "training.seed: found"),
        (["--grid", "task=vqa,gqa"], "another option sets task"),
        (["--grid", "data={root: a}"], "another option sets data.root"),
        (["--set", "head=generate"], "found --head and --set head, which set the same field"),
        (["--grid", "training.epochs=1,3"], "--set sets training.epochs too"),
        (["--set", "method.name=full"], "use --method or --grid instead"),
        (["--grid", "optimizer.lr=1e-3", "--grid", "optimizer.lr=2e-3"], "given twice"),
        (["--grid", "data.prompt_prefix.vqa=a/b,a-b"], "share the folder"),
        (["--set", "training.rate=1"], "training.rate: no such field"),
        (["--grid", "backbone.vocabulary=null,~"], "the value null is repeated"),
        (["no-recipe"], "no recipe 'no-recipe'"),
    ],
)
def test_a_sweep_that_cannot_work_is_refused_at_once(
    world: TinyWorld,
    tmp_path: Path,
    more: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(arguments(world, tmp_path / "runs", *more)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_two_runs_with_the_same_settings_are_refused(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The leaderboard would count one seed twice."""
    same = str(tmp_path / "same.yaml")
    Path(same).write_text("extends: lst\n")
    given = arguments(world, tmp_path / "runs", "lst", same)
    assert main([*given, "--grid", "method.options.reduction=4"]) == 1
    message = capsys.readouterr().err
    assert "same/reduction=4/seed-0 and lst/reduction=4/seed-0 have the same settings" in message


def test_no_run_is_inside_the_folder_of_another(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if `lst` had been trained by hand."""
    other = tmp_path / "runs" / "lst"
    other.mkdir(parents=True)
    (other / "recipe.yaml").write_text("task: vqa\n")
    assert main(arguments(world, tmp_path / "runs")) == 1
    assert "holds a run, so no other run can be inside it" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--jobs", "0"], ["--print-commands", "--dry-run"]])
def test_wrong_usage(world: TinyWorld, tmp_path: Path, more: list[str]) -> None:
    assert main(arguments(world, tmp_path / "runs", *more)) == 2


def test_a_run_has_a_bar_while_it_trains(capsys: pytest.CaptureFixture[str]) -> None:
    bars = progress_bars()
    shown = RunsProgress(silent, bars, quiet=False)
    shown.on_progress("lst/seed-0", 1, 4, "loss 2")
    shown.on_progress("full/seed-0", 0, 4, "")
    shown.on_progress("lst/seed-0", 2, 4, "loss 1")
    (first, second) = bars.tasks
    assert (first.description, first.completed, first.total) == ("lst/seed-0", 2, 4)
    assert first.fields["note"] == "loss 1"
    assert second.description == "full/seed-0"
    shown.on_end("lst/seed-0", TrainingError("the loss is not finite"))
    assert [bar.description for bar in bars.tasks] == ["full/seed-0"]
    assert "lst/seed-0: the loss is not finite" in capsys.readouterr().err
