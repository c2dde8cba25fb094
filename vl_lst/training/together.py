"""Several runs at the same time, each in a process of its own with its share of the cores.

Small models gain less from a second core than a second run does.
"""

import multiprocessing
import os
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty

from eval.run_files import RunRecord
from feature_extraction.cores import usable_cores
from vl_lst.errors import TrainingError
from vl_lst.launch import require_one_process
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe
from vl_lst.training.run_process import Message, begin, train_one

__all__ = ["train_together"]

SECONDS_BETWEEN_LOOKS = 0.2


def train_together(
    runs: Mapping[str, tuple[Recipe, Path]],
    *,
    processes: int | None = None,
    report: ProgressReport = silent,
) -> dict[str, RunRecord]:
    """Train each recipe in its folder, going on where one was interrupted.

    When one run fails, or this process is interrupted, the others end at their next step; called
    again, all go on.

    Args:
        runs: Recipe and folder of each run, by a name for progress.
        processes: Runs at once; as many as there are cores unless said otherwise.
        report: Told how many steps of all runs are done.

    Raises:
        VlLstError: What `train` raises in one of the runs.
        TrainingError: A process ended without a word.
        LaunchError: This is one of several processes that a launcher started.
    """
    require_one_process(os.environ)
    cores = usable_cores()
    processes = min(len(runs), processes or cores)
    context = multiprocessing.get_context("spawn")
    messages: Queue[Message] = context.Queue()
    stop = context.Event()
    threads = max(1, cores // processes)
    # A process for each run: what one leaves behind in memory, the next does not pay for.
    with ProcessPoolExecutor(
        processes, context, begin, (messages, stop, threads), max_tasks_per_child=1
    ) as pool:
        try:
            futures = {
                name: pool.submit(train_one, name, recipe, folder)
                for name, (recipe, folder) in runs.items()
            }
            _follow(futures, messages, report)
        except BrokenProcessPool:
            raise TrainingError(
                f"one of the {processes} processes that train ended without a word; the system may "
                "have killed it for want of memory. Free some, and run the command again: it goes "
                "on where it was"
            ) from None
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        return {name: future.result() for name, future in futures.items()}


def _follow(
    futures: Mapping[str, Future[RunRecord]], messages: "Queue[Message]", report: ProgressReport
) -> None:
    """Pass on what the processes report until all are done or one has failed."""
    latest: dict[str, tuple[int, int, str]] = {}
    open_futures = set(futures.values())
    while open_futures:
        ended, open_futures = wait(open_futures, timeout=SECONDS_BETWEEN_LOOKS)
        for future in ended:
            future.result()
        before = dict(latest)
        while True:
            try:
                name, *_ = message = messages.get_nowait()
            except Empty:
                break
            latest[name] = message[1:]
        if latest != before:
            under_way = [name for name, future in futures.items() if future in open_futures]
            report(*_summary(latest, under_way, len(futures)))


def _summary(
    latest: Mapping[str, tuple[int, int, str]], under_way: Collection[str], runs: int
) -> tuple[int, int, str]:
    """Steps done and to do of all runs, and what those under way say.

    Runs that have not begun, or had nothing left to do, say nothing; they are taken to be as long
    as the others.
    """
    known = sum(total for _, total, _ in latest.values())
    silent_done = runs - len(latest) - sum(name not in latest for name in under_way)
    done = sum(steps for steps, _, _ in latest.values()) + silent_done * known // len(latest)
    notes = [f"{name}: {latest[name][2]}" for name in under_way if name in latest]
    ended = runs - len(under_way)
    count = f"{ended} of {runs} runs done" if ended else ""
    return done, known * runs // len(latest), "; ".join(filter(None, [*notes, count]))
