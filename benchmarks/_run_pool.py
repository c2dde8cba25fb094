"""Processes that train the runs of a benchmark, one thread each."""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread

__all__ = ["run_pool", "stop_if_orphaned"]

SECONDS_TO_STOP = 60.0


def run_pool(jobs: int, *, runs_per_process: int | None = 1) -> ProcessPoolExecutor:
    """Return a pool of processes that end soon after this one, even if it is killed.

    Args:
        jobs: Number of processes.
        runs_per_process: Number of runs after which a process is replaced, which returns its
            memory; `None` keeps the processes, whose imports take seconds.
    """
    # Libraries read it when they are imported, so it must be set before processes start.
    os.environ["OMP_NUM_THREADS"] = "1"
    return ProcessPoolExecutor(
        jobs,
        get_context("spawn"),
        initializer=_end_with_parent,
        initargs=(SECONDS_TO_STOP,),
        max_tasks_per_child=runs_per_process,
    )


def stop_if_orphaned(done: int, total: int, note: str = "") -> None:
    """Stop a run, as its report of progress, when the process that started it has been killed."""
    parent = parent_process()
    if parent is not None and not parent.is_alive():
        raise KeyboardInterrupt


def _end_with_parent(seconds: float) -> None:
    """End this process some seconds after its parent, in which a run can stop."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        time.sleep(seconds)
        os._exit(1)

    Thread(target=wait, daemon=True).start()
