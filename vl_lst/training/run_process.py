"""What a process of `train_together` does.

This module imports nothing that takes long: a process that is interrupted before `begin` has run
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

__all__ = ["Message", "begin", "train_one"]

# Name of a run, steps done, steps in all, and a note.
Message = tuple[str, int, int, str]

# What this process was begun with.
_messages: "Queue[Message] | None" = None
_stop: Event | None = None


def begin(messages: "Queue[Message]", stop: Event, num_threads: int) -> None:
    """Prepare a process for `train_one`.

    Args:
        messages: Where progress is sent.
        stop: Set by the parent process when runs must end early.
        num_threads: Threads that torch may use.
    """
    # Ctrl-C reaches all processes of a terminal; the parent alone handles it, and sets `stop`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    global _messages, _stop
    _messages, _stop = messages, stop
    import torch

    torch.set_num_threads(num_threads)


def train_one(name: str, recipe: "Recipe", folder: Path) -> "RunRecord":
    """Train a recipe in its folder, or resume it, and report its progress to the parent.

    Args:
        name: Of the run, for progress.
        recipe: The run's recipe.
        folder: The run's folder.

    Raises:
        KeyboardInterrupt: The parent asked for it or ended.
        VlLstError: What `vl_lst.training.session.train` raises.
    """
    from vl_lst.training.session import train

    parent = multiprocessing.parent_process()

    def report(done: int, total: int, note: str = "") -> None:
        assert _messages is not None, "begin has run"
        assert _stop is not None, "begin has run"
        # An orphaned process must not write where the next attempt will.
        if _stop.is_set() or not (parent is None or parent.is_alive()):
            raise KeyboardInterrupt
        _messages.put((name, done, total, note))

    return train(recipe, folder, resume=True, report=report)
