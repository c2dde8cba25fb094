"""Worker process of `train_in_parallel`.

This module imports nothing slow: a process that is interrupted before `prepare_process` has run
would print a traceback.
"""

import multiprocessing
import signal
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.run_files import RunRecord
    from vl_lst.recipes import Recipe

__all__ = ["Message", "prepare_process", "train_one"]

# Name of a run, its steps done, its number of steps, and a note.
Message = tuple[str, int, int, str]

# Set by `prepare_process`.
_messages: "Queue[Message] | None" = None
_stop: Event | None = None


def prepare_process(messages: "Queue[Message]", stop: Event, num_threads: int) -> None:
    """Prepare this process for `train_one`.

    Args:
        messages: Queue for progress messages.
        stop: Event that the parent process sets to end runs early.
        num_threads: Number of threads that torch may use.
    """
    # Ctrl-C reaches all processes of a terminal. Only the parent handles it, by setting `stop`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    global _messages, _stop
    _messages, _stop = messages, stop
    import torch

    torch.set_num_threads(num_threads)


def train_one(name: str, recipe: "Recipe", folder: Path) -> "RunRecord":
    """Train or resume one run and send its progress to the parent process.

    Args:
        name: Name of the run in progress messages.
        recipe: Recipe of the run.
        folder: Folder of the run.

    Raises:
        KeyboardInterrupt: The parent process has set `stop` or exited.
        VlLstError: See `vl_lst.training.session.train`.
    """
    from vl_lst.training.session import train

    parent = multiprocessing.parent_process()

    def report(done: int, total: int, note: str = "") -> None:
        assert _messages is not None, "prepare_process has run"
        assert _stop is not None, "prepare_process has run"
        # An orphaned process must not write to a folder that the next attempt uses.
        if _stop.is_set() or not (parent is None or parent.is_alive()):
            raise KeyboardInterrupt
        _messages.put((name, done, total, note))

    return train(recipe, folder, resume=True, report=report)
