"""A suite of tasks through the command line: one run per task, one mean, one submission."""

import json
import shutil
import signal
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_run import tiny_settings
from tiny_suite import TinySuite, make_suite

from tasks import SUITES
from vl_lst.cli import main
from vl_lst.errors import TrainingError
from vl_lst.recipes import load_recipe

TASKS = SUITES["glue"]
STEPS = 2
KILLED = """
import os, signal, sys
from accelerate import Accelerator
from vl_lst.cli import main
backward, left = Accelerator.backward, [int(sys.argv[1])]
def until_killed(*arguments, **keywords):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return backward(*arguments, **keywords)
Accelerator.backward = until_killed
main(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinySuite]:
    folder = tmp_path_factory.mktemp("suite")
    with tiny_settings(folder):
        yield make_suite(folder)


@pytest.fixture(scope="module")
def trained(suite: TinySuite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all tasks with answer lists, and the report of the command."""
    runs = tmp_path_factory.mktemp("trained") / "runs"
    report = runs.parent / "report.json"
    arguments = suite.train_arguments(runs, "--head", "classify", "--json", str(report))
    # A setting for all tasks, and one for a single task.
    settings = ("training.seed=3", "training.batch_size.cola=1")
    assert main([*arguments, *(word for each in settings for word in ("--set", each))]) == 0
    return runs


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def records(runs: Path) -> dict[str, Any]:
    return {task: read(runs / task / "record.json") for task in TASKS}


def test_each_task_is_an_ordinary_run_with_the_same_settings(trained: Path) -> None:
    assert sorted(path.name for path in trained.iterdir() if path.is_dir()) == sorted(TASKS)
    for task, record in records(trained).items():
        assert (record["status"], record["tasks"], record["seed"]) == ("success", [task], 3)
        assert record["steps"] == STEPS
        recipe = load_recipe(trained / task / "recipe.yaml")
        assert recipe.head == {task: "regress" if task == "stsb" else "classify"}
        assert recipe.features == ()
        assert recipe.training.batch_size == {task: 1 if task == "cola" else 2}


def test_the_report_has_all_records_and_the_mean_over_tasks(trained: Path) -> None:
    report = read(trained.parent / "report.json")
    assert report["suite"] == "glue"
    assert report["failed"] == {}
    scores = []
    for task, record in records(trained).items():
        split = "dev_matched" if task == "mnli" else "dev"
        of_task = report["runs"][task]["scores"][task]
        assert of_task[split] == record["scores"][task][split]
        scores.append(of_task[split]["average"])
    assert len(set(scores)) > 2, "the scores differ, so the mean means something"
    assert report["mean"] == pytest.approx(statistics.fmean(scores))


def test_resuming_skips_finished_runs(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = shutil.copytree(trained, tmp_path / "runs")
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    assert main(["train", "--task", "glue", "--out", str(runs), "--resume"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("finished before") == len(TASKS)
    assert "mean of the 8 tasks in percent" in printed.out
    after = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    assert after == before


def test_a_suite_is_not_overwritten_and_not_mixed_with_other_settings(
    suite: TinySuite, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = suite.train_arguments(trained, "--head", "classify")
    assert main(arguments) == 1
    assert "cola already holds a run" in capsys.readouterr().err
    arguments = suite.train_arguments(trained, "--head", "classify", "--resume")
    assert main([*arguments, "--set", "training.seed=4"]) == 1
    assert "training.seed: 3 in the run, 4 given" in capsys.readouterr().err
    assert main(suite.train_arguments(trained / "cola")) == 1
    assert "cola holds a single run: expected a new folder" in capsys.readouterr().err


def test_a_run_that_fails_does_not_lose_the_others(
    suite: TinySuite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from vl_lst.training import session

    train = session.train

    def failing(recipe: Any, *arguments: Any, **keywords: Any) -> Any:
        if recipe.task == "sst2":
            raise TrainingError("the loss is not finite")
        if recipe.task == "qqp":
            raise RuntimeError("CUDA error: out of memory")
        return train(recipe, *arguments, **keywords)

    runs, report = tmp_path / "runs", tmp_path / "report.json"
    arguments = suite.train_arguments(runs, "--json", str(report))
    with monkeypatch.context() as patch:
        patch.setattr(session, "train", failing)
        assert main(arguments) == 1
    printed = capsys.readouterr()
    assert "mean of the" not in printed.out, "a mean over six tasks would not be comparable"
    end = printed.err[printed.err.index("2 of the 8 runs of glue failed") :]
    assert "sst2: the loss is not finite" in end
    assert "qqp: RuntimeError: CUDA error: out of memory" in end
    assert "--resume" in end
    document = read(report)
    assert document["failed"].keys() == {"sst2", "qqp"}
    assert document["mean"] is None
    assert [task for task, record in document["runs"].items() if record is None] == ["sst2", "qqp"]

    done = (runs / "cola" / "record.json").stat().st_mtime_ns
    assert main([*arguments, "--resume"]) == 0
    assert (runs / "cola" / "record.json").stat().st_mtime_ns == done
    document = read(report)
    assert document["failed"] == {}
    assert document["mean"] is not None
    assert list(document["runs"]) == list(TASKS)


@pytest.mark.slow
def test_a_killed_suite_is_resumed_where_it_stopped(suite: TinySuite, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    # Killed in the first step of the third task.
    arguments = suite.train_arguments(runs)
    killed = [sys.executable, "-c", KILLED, str(2 * STEPS + 1), *arguments]
    assert subprocess.run(killed, check=False).returncode == -signal.SIGKILL
    assert read(runs / "sst2" / "record.json")["status"] == "success"
    assert not (runs / "mrpc" / "record.json").exists()
    done = (runs / "sst2" / "record.json").stat().st_mtime_ns
    # The recipes of all runs were written at the start.
    assert main(["train", "--task", "glue", "--out", str(runs), "--resume", "--quiet"]) == 0
    assert (runs / "sst2" / "record.json").stat().st_mtime_ns == done
    assert {record["status"] for record in records(runs).values()} == {"success"}


def test_missing_data_are_reported_before_the_first_run(
    suite: TinySuite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(suite.root, tmp_path / "data")
    (root / "glue" / "RTE" / "dev.tsv").unlink()
    (root / "glue" / "QNLI" / "train.tsv").write_text("index\tquestion\tsentence\n0\ta\tb\n")
    runs = tmp_path / "runs"
    splits = ["data.train_split.qnli=paper_train", "data.validation_split.qnli=paper_validation"]
    arguments = [each for split in splits for each in ("--set", split)]
    assert main(TinySuite(root, suite.backbone).train_arguments(runs, *arguments)) == 1
    message = capsys.readouterr().err
    assert "rte: dev needs glue/RTE/dev.tsv" in message
    assert message.count("qnli: ") == 1, "both splits are parts of one file"
    assert not runs.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--features", "a.h5"], "--features belongs to one task"),
        (["--images", "photos"], "--images belongs to one task"),
        (["--train-file", "a.jsonl"], "--train-file belongs to one task"),
        (["--val-file", "a.jsonl"], "--val-file belongs to one task"),
        (["--set", "task=rte"], "task: cannot be set"),
        (["--set", "data.train_file.rte=a", "--set", "data.validation_file.rte=b"], "glue, rte: "),
        (["--head", "regress"], "glue, cola: "),
        (["--set", "training.seed=-1"], "glue, cola: the recipe is not valid"),
    ],
)
def test_options_of_one_task_are_refused(
    suite: TinySuite,
    tmp_path: Path,
    more: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(suite.train_arguments(tmp_path / "runs", *more)) != 0
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "runs").exists()


def test_several_processes_are_refused(
    suite: TinySuite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(suite.train_arguments(tmp_path / "runs")) == 1
    assert "several processes can train a single task" in capsys.readouterr().err


def test_the_report_may_not_replace_a_file_of_a_run(
    suite: TinySuite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    inside = str(runs / "cola" / "record.json")
    (runs / "cola").mkdir(parents=True)
    assert main(suite.train_arguments(runs, "--json", inside)) == 1
    assert "which is part of the run in" in capsys.readouterr().err


def test_a_suite_is_no_task_of_other_commands(
    suite: TinySuite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = suite.train_arguments(tmp_path / "runs")
    arguments[arguments.index("glue")] = "vqa,glue"
    assert main(arguments) == 1
    assert "glue is a suite of 8 tasks, not a task" in capsys.readouterr().err


def test_a_split_of_all_tasks_is_evaluated(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    arguments = ["evaluate", str(trained), "--task", "glue", "--json", str(report)]
    assert main([*arguments, "--split", "dev"]) == 0
    document = read(report)
    found = {task: [each["split"] for each in parts] for task, parts in document["tasks"].items()}
    mnli = ["dev_matched", "dev_mismatched"]
    assert found == {task: mnli if task == "mnli" else ["dev"] for task in TASKS}
    scores = {
        task: [each["metrics"]["average"] for each in parts]
        for task, parts in document["tasks"].items()
    }
    expected = statistics.fmean(statistics.fmean(each) for each in scores.values())
    assert document["mean"] == pytest.approx(expected)
    shown = capsys.readouterr()
    assert f"mean of the 8 tasks in percent: {expected:.2f}" in shown.out
    for task, record in records(trained).items():
        split = "dev_matched" if task == "mnli" else "dev"
        assert scores[task][0] == record["scores"][task][split]["average"]


def test_the_submission_has_a_file_for_every_task(
    suite: TinySuite, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    arguments = ["evaluate", str(trained), "--task", "glue", "--json", str(report)]
    assert main([*arguments, "--split", "test", "--submission"]) == 0
    printed = capsys.readouterr()
    assert "no predictions for WNLI.tsv" in printed.err
    assert "no public labels: predictions only" in printed.err
    document = read(report)
    assert document["mean"] is None
    assert document["submission"]["placeholders"] == ["WNLI.tsv"]
    assert document["tasks"].keys() == {*TASKS, "ax"}, "the model of mnli answers ax"
    archive = Path(document["submission"]["file"])
    assert archive == trained / "submission" / "glue.zip"
    with zipfile.ZipFile(archive) as opened:
        assert len(opened.namelist()) == 11
        answers = opened.read("RTE.tsv").decode().splitlines()
    predictions = read(trained / "rte" / "predictions" / "rte-test.json")
    words = {"0": "entailment", "1": "not_entailment"}
    assert answers[1:] == [f"{each['id']}\t{words[each['answer']]}" for each in predictions]

    check = ["score", "--task", "glue", "--check-submission", str(archive)]
    assert main([*check, "--data-root", str(suite.root), "--split", "test"]) == 0
    assert "is valid" in capsys.readouterr().out
    assert main([*check, "--data-root", str(suite.root), "--split", "dev"]) == 1
    assert "the server of glue does not accept cola dev" in capsys.readouterr().err
    assert main(["score", "--task", "glue", "--predictions", str(report)]) == 2
    assert "--predictions belongs to one task" in " ".join(capsys.readouterr().err.split())


def test_missing_runs_are_named_and_there_is_no_mean(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(trained / "rte", runs / "rte")
    shutil.copytree(trained / "cola", runs / "cola")
    shutil.rmtree(runs / "cola" / "checkpoints")
    report = tmp_path / "report.json"
    arguments = ["evaluate", str(runs), "--task", "glue", "--json", str(report)]
    assert main([*arguments, "--split", "dev"]) == 1
    printed = capsys.readouterr()
    assert "no run of sst2, mrpc, qqp, mnli, qnli, stsb" in printed.err
    assert "1 of 2 tasks failed:" in printed.err
    assert "mean of the" not in printed.out
    document = read(report)
    assert document["tasks"].keys() == {"rte"}
    assert document["failed"].keys() == {"cola"}
    assert document["mean"] is None

    assert main([*arguments, "--split", "nothing"]) == 1
    assert "cola has no split 'nothing'" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--task", "glue", "--split", "dev"]) == 1
    assert "holds no run of glue" in capsys.readouterr().err
    assert main([*arguments, "--split", "dev", "--submission"]) == 1
    assert "does not accept cola dev" in capsys.readouterr().err
    assert main([*arguments, "--split", "dev", "--features", "a.h5"]) == 2


def test_the_leaderboard_sums_up_the_suite(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, page = tmp_path / "board.json", tmp_path / "board.html"
    arguments = ["leaderboard", str(trained), "--include-dirty", "--json", str(report)]
    assert main([*arguments, "--out", str(page)]) == 0
    first, *others = read(report)["groups"]
    assert (first["suite"], len(others)) == ("glue", len(TASKS))
    (row,) = first["rows"]
    scores = [
        record["scores"][task]["dev_matched" if task == "mnli" else "dev"]["average"]
        for task, record in records(trained).items()
    ]
    assert row["scores"]["average"]["mean"] == pytest.approx(statistics.fmean(scores))
    seconds = [record["train_seconds"] for record in records(trained).values()]
    assert row["costs"]["train_seconds"]["mean"] == pytest.approx(sum(seconds))
    assert "glue on dev (mnli on dev_matched)" in " ".join(capsys.readouterr().out.split())
    assert page.read_text(encoding="utf-8").count('<article class="view run"') == len(TASKS)

    evaluate = ["evaluate", str(trained), "--task", "glue", "--quiet"]
    assert main([*evaluate, "--split", "paper_test"]) == 0
    assert main([*arguments, "--out", str(page), "--split", "glue=paper_test", "--quiet"]) == 0
    assert set(read(report)["groups"][0]["splits"].values()) == {"paper_test"}
