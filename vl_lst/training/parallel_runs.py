"""Several runs trained at the same time, each in its own process with its share of the cores.

For small models, a second run makes better use of a second core than a second thread does.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol

import torch

from eval.run_files import RunRecord
from feature_extraction.cores import usable_cores
from vl_lst.errors import TrainingError, VlLstError
from vl_lst.launch import require_one_process
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe
from vl_lst.training.parallel_worker import STOP, Outcome, Progress, train_one

__all__ = ["RunWatcher", "train_in_parallel"]

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


class RunWatcher(Protocol):
    """Callbacks for single runs."""

    def on_progress(self, name: str, done: int, total: int, note: str) -> None:
        """Handle the steps done by a run, their total, and a note."""

    def on_end(self, name: str, ended: RunRecord | VlLstError) -> None:
        """Handle the record of a run that has finished, or the error of one that has failed."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A run that trains.

    Args:
        name: Name of the run.
        process: Its process.
        slot: Which of the parallel runs it is, from 0.
    """

    name: str
    process: SpawnProcess
    slot: int


def train_in_parallel(
    runs: Mapping[str, tuple[Recipe, Path]],
    *,
    processes: int | None = None,
    report: ProgressReport = silent,
    watcher: RunWatcher | None = None,
    failures: MutableMapping[str, VlLstError] | None = None,
) -> dict[str, RunRecord]:
    """Train several runs in parallel, resuming those that were interrupted.

    If this process is interrupted, or one run fails and `failures` is not given, the other runs
    stop at their next step, with a checkpoint; the same call resumes them. If this process is
    killed, they stop at once. On a machine with several CUDA devices, parallel runs train on
    different ones.

    Args:
        runs: Recipe and folder of each run, by its name in progress notes.
        processes: Maximum number of parallel runs, each of which gets an equal share of the cores.
            Default: the number of usable cores, at most one per run.
        report: Progress callback for the steps of all runs.
        watcher: Callbacks for single runs.
        failures: Filled with the error of each run that failed, by name; the other runs continue.

    Returns:
        Record of each finished run, by name.

    Raises:
        VlLstError: A run failed; see `vl_lst.training.session.train`.
        TrainingError: A process exited unexpectedly.
        LaunchError: A launcher such as torchrun started several processes.
    """
    require_one_process(os.environ)
    cores = usable_cores()
    processes = processes or max(1, min(len(runs), cores))
    # Not fewer processes if fewer runs are left: sums of more threads are rounded differently.
    num_threads = max(1, cores // processes)
    return _Runs(runs, processes, num_threads, report, watcher, failures).train()


class _Runs:
    """The runs of one call of `train_in_parallel`; see there for the arguments."""

    def __init__(
        self,
        runs: Mapping[str, tuple[Recipe, Path]],
        processes: int,
        num_threads: int,
        report: ProgressReport,
        watcher: RunWatcher | None,
        failures: MutableMapping[str, VlLstError] | None,
    ) -> None:
        self._runs = runs
        self._waiting = deque(runs)
        self._running: dict[Connection, _Running] = {}
        self._free = list(reversed(range(processes)))
        self._num_threads = num_threads
        self._devices = _cuda_devices() if processes > 1 else []
        self._report = report
        self._watcher = watcher
        self._failures = failures
        self._latest: dict[str, Progress] = {}
        self._records: dict[str, RunRecord] = {}

    def train(self) -> dict[str, RunRecord]:
        """Train all runs and return the records of those that finished, in the order given."""
        try:
            while self._waiting or self._running:
                while self._waiting and self._free:
                    self._start(self._waiting.popleft())
                before = dict(self._latest)
                for connection in wait(list(self._running)):
                    assert isinstance(connection, Connection)
                    self._receive(connection)
                if self._latest != before:
                    unfinished = [*(run.name for run in self._running.values()), *self._waiting]
                    self._report(*_summarise(self._latest, unfinished, len(self._runs)))
        finally:
            self._stop()
        return {name: self._records[name] for name in self._runs if name in self._records}

    def _start(self, name: str) -> None:
        # One process per run, so that memory which a run leaves allocated does not add up.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        slot = self._free.pop()
        environment = {}
        if len(self._devices) > 1:
            environment[VISIBLE_DEVICES] = self._devices[slot % len(self._devices)]
        process = context.Process(
            target=train_one, args=(theirs, self._num_threads, environment), name=name
        )
        process.start()
        self._running[ours] = _Running(name, process, slot)
        # Otherwise this process would not see that the other has closed it by exiting.
        theirs.close()
        try:
            ours.send(self._runs[name])
        except BrokenPipeError:
            # Receiving from it reports the exit.
            return

    def _receive(self, connection: Connection) -> None:
        """Handle one message of a run, or the end of its process."""
        run = self._running[connection]
        try:
            message: Progress | Outcome = connection.recv()
        except (EOFError, ConnectionResetError):
            message = Outcome(error=None)
        if not isinstance(message, Outcome):
            self._latest[run.name] = message
            if self._watcher is not None:
                self._watcher.on_progress(run.name, *message)
            return
        run.process.join()
        del self._running[connection]
        connection.close()
        self._free.append(run.slot)
        if message.record is not None:
            self._records[run.name] = message.record
            if self._watcher is not None:
                self._watcher.on_end(run.name, message.record)
            return
        error = message.error or TrainingError(
            f"the training process of {run.name} exited unexpectedly ({_exit(run.process)}), "
            "possibly because the system ran out of memory. Free some memory and run the same "
            "command again to resume."
        )
        if self._failures is None:
            raise error
        if not isinstance(error, VlLstError):
            error = TrainingError(str(error))
        self._failures[run.name] = error
        if self._watcher is not None:
            self._watcher.on_end(run.name, error)

    def _stop(self) -> None:
        """End the runs that still train, at their next step."""
        for connection in self._running:
            try:
                connection.send(STOP)
            except OSError:
                # Its process has exited.
                continue
        try:
            for connection, run in self._running.items():
                _wait_for_exit(connection, run.process)
        except BaseException:
            # A second interruption: the next attempt resumes from the last checkpoint.
            for run in self._running.values():
                run.process.kill()
            raise


def _wait_for_exit(connection: Connection, process: SpawnProcess) -> None:
    """Wait until a process exits; what it still sends must not fill the connection."""
    try:
        while True:
            connection.recv()
    except (EOFError, OSError):
        process.join()


def _exit(process: SpawnProcess) -> str:
    code = process.exitcode or 0
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _cuda_devices() -> list[str]:
    """Return the CUDA devices that this process may use, as other processes can be given them."""
    number = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE_DEVICES, "").split(",")]
    return (
        named[:number] if len(named) >= number > 0 and named[0] else list(map(str, range(number)))
    )


def _summarise(
    latest: Mapping[str, Progress], unfinished: Collection[str], num_runs: int
) -> tuple[int, int, str]:
    """Return the steps done and to do of all runs, and the notes of unfinished ones.

    Runs without messages, because they wait or had nothing left to train, count as long as the
    mean of the others.

    Args:
        latest: Steps done, number of steps and note of each run that has sent a message.
        unfinished: Names of runs that wait or train.
        num_runs: Number of all runs.
    """
    known_total = sum(total for _, total, _ in latest.values())
    finished_before = num_runs - len(latest) - sum(name not in latest for name in unfinished)
    done = sum(steps for steps, _, _ in latest.values())
    done += finished_before * known_total // len(latest)
    notes = [f"{name}: {latest[name][2]}" for name in unfinished if name in latest]
    num_finished = num_runs - len(unfinished)
    count = f"{num_finished} of {num_runs} runs done" if num_finished else ""
    return done, known_total * num_runs // len(latest), "; ".join(filter(None, [*notes, count]))
