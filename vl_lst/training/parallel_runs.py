"""Several runs trained at the same time, each in its own process with its share of the cores.

For small models, a second run makes better use of a second core than a second thread does.
"""

import multiprocessing
import os
from collections.abc import Collection, Mapping, MutableMapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty

from eval.run_files import RunRecord
from feature_extraction.cores import usable_cores
from vl_lst.errors import ModelError, TrainingError, VlLstError
from vl_lst.launch import require_one_process
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe
from vl_lst.training.parallel_worker import Message, prepare_process, train_one

__all__ = ["train_in_parallel"]

POLL_SECONDS = 0.2


def train_in_parallel(
    runs: Mapping[str, tuple[Recipe, Path]],
    *,
    processes: int | None = None,
    report: ProgressReport = silent,
    failures: MutableMapping[str, VlLstError] | None = None,
) -> dict[str, RunRecord]:
    """Train several runs in parallel, resuming those that were interrupted.

    If this process is interrupted, or one run fails and `failures` is not given, the other runs
    stop at their next step; the same call resumes them.

    Args:
        runs: Recipe and folder of each run, by its name in progress notes.
        processes: Maximum number of parallel runs. Default: the number of usable cores.
        report: Progress callback for the steps of all runs.
        failures: Filled with the error of each run that could not build its model or continue, by
            name; the other runs continue.

    Returns:
        Record of each finished run, by name.

    Raises:
        VlLstError: A run failed; see `vl_lst.training.session.train`.
        TrainingError: A process exited unexpectedly.
        LaunchError: A launcher such as torchrun started several processes.
    """
    require_one_process(os.environ)
    cores = usable_cores()
    processes = min(len(runs), processes or cores)
    context = multiprocessing.get_context("spawn")
    messages: Queue[Message] = context.Queue()
    stop = context.Event()
    threads = max(1, cores // processes)
    # One process per run, so that memory which a run leaves allocated does not add up.
    with ProcessPoolExecutor(
        processes, context, prepare_process, (messages, stop, threads), max_tasks_per_child=1
    ) as pool:
        try:
            futures = {
                name: pool.submit(train_one, name, recipe, folder)
                for name, (recipe, folder) in runs.items()
            }
            _report_until_done(futures, messages, report, failures)
        except BrokenProcessPool:
            raise TrainingError(
                f"one of {processes} training processes exited unexpectedly, possibly because the "
                "system ran out of memory. Free some memory and run the same command again to "
                "resume."
            ) from None
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        return {
            name: future.result()
            for name, future in futures.items()
            if failures is None or name not in failures
        }


def _report_until_done(
    futures: Mapping[str, Future[RunRecord]],
    messages: "Queue[Message]",
    report: ProgressReport,
    failures: MutableMapping[str, VlLstError] | None,
) -> None:
    """Report the progress of all runs until all have ended or one has failed.

    Args:
        futures: The runs, by name.
        messages: Progress messages of their processes.
        report: Progress callback.
        failures: See `train_in_parallel`.
    """
    names = {future: name for name, future in futures.items()}
    latest: dict[str, tuple[int, int, str]] = {}
    unfinished = set(futures.values())
    while unfinished:
        ended, unfinished = wait(unfinished, timeout=POLL_SECONDS)
        for future in ended:
            try:
                future.result()
            except (ModelError, TrainingError) as error:
                if failures is None:
                    raise
                failures[names[future]] = error
        before = dict(latest)
        while True:
            try:
                name, *_ = message = messages.get_nowait()
            except Empty:
                break
            latest[name] = message[1:]
        if latest != before:
            unfinished_names = [name for name, future in futures.items() if future in unfinished]
            report(*_summarise(latest, unfinished_names, len(futures)))


def _summarise(
    latest: Mapping[str, tuple[int, int, str]], unfinished: Collection[str], num_runs: int
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
