"""Runs trained in parallel: one that fails stops the others or not, and all can be resumed."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from tiny_run import TinyWorld

from vl_lst.errors import TrainingError, VlLstError
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training.parallel_runs import _summarise, train_in_parallel
from vl_lst.training.parallel_worker import prepare_process


def test_progress_counts_all_runs_from_the_start() -> None:
    """Runs that wait for a core count as long as those that have started."""
    latest = {"lst": (500, 2000, "loss 1"), "full": (0, 2000, "loss 2")}
    assert _summarise(latest, ["lst", "full", "lora", "blind"], 4) == (
        500, 8000, "lst: loss 1; full: loss 2",
    )  # fmt: skip
    latest["lst"] = (2000, 2000, "evaluating")
    assert _summarise(latest, ["full", "lora", "blind"], 4) == (
        2000, 8000, "full: loss 2; 1 of 4 runs done",
    )  # fmt: skip


def test_runs_that_were_finished_before_count_as_done() -> None:
    """They send no messages."""
    assert _summarise({"full": (10, 2000, "")}, ["full"], 3)[:2] == (4010, 6000)


@pytest.mark.slow
def test_a_killed_process_is_one_error_and_the_runs_can_be_resumed(
    world: TinyWorld, tmp_path: Path
) -> None:
    runs = {name: (world.recipe(), tmp_path / name) for name in ("one", "other")}
    killed: list[int] = []

    def kill_one(done: int, _total: int, _note: str = "") -> None:
        if done and not killed:
            child = multiprocessing.active_children()[0]
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            killed.append(child.pid)

    with pytest.raises(TrainingError, match="exited unexpectedly.*run the same command again"):
        train_in_parallel(runs, processes=2, report=kill_one)
    assert killed
    records = train_in_parallel(runs, processes=2)
    assert {record.status for record in records.values()} == {"success"}
    assert records["one"].scores == records["other"].scores


@pytest.mark.slow
def test_a_run_that_fails_stops_the_others_with_its_error(world: TinyWorld, tmp_path: Path) -> None:
    good = world.recipe()
    bad = world.recipe(method__options__reduction=3)
    with pytest.raises(Exception, match="the reduction 3 does not divide"):
        train_in_parallel({"bad": (bad, tmp_path / "bad"), "good": (good, tmp_path / "good")})
    record = read_record(RunDirectory(tmp_path / "bad"))
    assert record is None or record.status == "failed"
    failures: dict[str, VlLstError] = {}
    runs = {"bad": (bad, tmp_path / "bad"), "good": (good, tmp_path / "good")}
    records = train_in_parallel(runs, failures=failures)
    assert {name: record.status for name, record in records.items()} == {"good": "success"}
    assert "the reduction 3 does not divide" in str(failures["bad"])


def test_only_the_parent_handles_an_interruption() -> None:
    """Ctrl-C reaches every process of a terminal; the others must not print tracebacks."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        1, context, prepare_process, (context.Queue(), context.Event(), 1)
    ) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
