"""Runs trained in parallel: one that fails stops the others or not, and all can be resumed."""

import multiprocessing
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from tiny_run import TinyWorld

from vl_lst.errors import TrainingError, VlLstError
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training.parallel_runs import _cuda_devices, _summarise, train_in_parallel
from vl_lst.training.parallel_worker import _sendable


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
    """The other run is interrupted, which only the parent process handles, and goes on."""
    runs = {name: (world.recipe(), tmp_path / name) for name in ("one", "other")}
    killed: list[str] = []

    def kill_one(done: int, _total: int, _note: str = "") -> None:
        if done and not killed:
            first, second = multiprocessing.active_children()
            assert first.pid is not None
            assert second.pid is not None
            os.kill(second.pid, signal.SIGINT)
            os.kill(first.pid, signal.SIGKILL)
            killed.append(first.name)

    failures: dict[str, VlLstError] = {}
    records = train_in_parallel(runs, processes=2, report=kill_one, failures=failures)
    assert list(failures) == killed
    assert re.search(
        "exited unexpectedly .killed by signal 9.*run the same command again", str(failures)
    )
    assert {record.status for record in records.values()} == {"success"}
    again = train_in_parallel({name: runs[name] for name in killed})
    assert again[killed[0]].scores == next(iter(records.values())).scores


@pytest.mark.slow
def test_a_run_that_fails_stops_the_others_with_its_error(world: TinyWorld, tmp_path: Path) -> None:
    good = world.recipe(training__epochs=10_000)
    bad = world.recipe(method__options__reduction=3)
    with pytest.raises(Exception, match="the reduction 3 does not divide"):
        train_in_parallel({"bad": (bad, tmp_path / "bad"), "good": (good, tmp_path / "good")})
    record = read_record(RunDirectory(tmp_path / "bad"))
    assert record is None or record.status == "failed"


def test_parallel_runs_are_spread_over_the_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process would otherwise choose the first device."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _cuda_devices() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-1b2c")
    assert _cuda_devices() == ["5", "GPU-1b2c"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _cuda_devices() == []


def test_an_error_that_cannot_be_copied_keeps_its_message() -> None:
    error = NeedsTwo("full", "disk")
    assert str(_sendable(error)) == str(error)
    assert type(_sendable(error)) is TrainingError
    assert _sendable(own := TrainingError("diverged")) is own


class NeedsTwo(Exception):  # noqa: N818
    """An error that cannot be unpickled, since it stores one argument of two."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} {where}")
