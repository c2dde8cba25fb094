"""Several runs at the same time: one that fails stops the others, and all go on."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from tiny_run import TinyWorld

from vl_lst.errors import TrainingError
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training.run_process import begin
from vl_lst.training.together import _summary, train_together


def test_progress_is_that_of_all_runs_from_the_beginning() -> None:
    """Runs that wait for a core count as if they were as long as those that have begun."""
    begun = {"lst": (500, 2000, "loss 1"), "full": (0, 2000, "loss 2")}
    assert _summary(begun, ["lst", "full", "lora", "blind"], 4) == (
        500, 8000, "lst: loss 1; full: loss 2",
    )  # fmt: skip
    begun["lst"] = (2000, 2000, "evaluating")
    assert _summary(begun, ["full", "lora", "blind"], 4) == (
        2000, 8000, "full: loss 2; 1 of 4 runs done",
    )  # fmt: skip


def test_runs_that_were_finished_before_count_as_done() -> None:
    """They are taken as they are and say nothing."""
    assert _summary({"full": (10, 2000, "")}, ["full"], 3)[:2] == (4010, 6000)


@pytest.mark.slow
def test_a_killed_process_is_one_message_and_the_runs_go_on(
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

    with pytest.raises(TrainingError, match="ended without a word.*run the command again"):
        train_together(runs, processes=2, report=kill_one)
    assert killed
    records = train_together(runs, processes=2)
    assert {record.status for record in records.values()} == {"success"}
    assert records["one"].scores == records["other"].scores


@pytest.mark.slow
def test_a_run_that_fails_says_why_and_stops_the_others(world: TinyWorld, tmp_path: Path) -> None:
    good = world.recipe()
    bad = world.recipe(method__options__reduction=3)
    with pytest.raises(Exception, match="the reduction 3 does not divide"):
        train_together({"bad": (bad, tmp_path / "bad"), "good": (good, tmp_path / "good")})
    record = read_record(RunDirectory(tmp_path / "bad"))
    assert record is None or record.status == "failed"


def test_only_the_parent_handles_an_interruption() -> None:
    """Ctrl-C reaches every process of a terminal: one word, and no traceback of each process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, begin, (context.Queue(), context.Event(), 1)) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
