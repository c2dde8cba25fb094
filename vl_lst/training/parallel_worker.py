"""Process that trains one run of `train_in_parallel`.

This module imports nothing slow: a process that is interrupted before it ignores the signal would
print a traceback.
"""

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.run_files import RunRecord
    from vl_lst.recipes import Recipe

__all__ = ["STOP", "Outcome", "Progress", "train_one"]

# Message of the parent process that ends a run early.
STOP = "stop"
# Steps done, number of steps, and a note.
Progress = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Args:
        record: Its record, if it has trained to the end.
        error: Why it failed, otherwise.
    """

    record: "RunRecord | None" = None
    error: Exception | None = None


def train_one(connection: "Connection", num_threads: int, environment: Mapping[str, str]) -> None:
    """Train or resume one run, send its progress and its outcome to the parent process, and exit.

    The first message from the parent is the recipe and the folder of the run. If the parent sends
    `STOP`, the process exits at its next step, with a checkpoint; if the parent is killed, at once.

    Args:
        connection: Connection to the parent process.
        num_threads: Number of threads that torch may use.
        environment: Environment variables to set.
    """
    # Ctrl-C reaches all processes of a terminal. Only the parent handles it, by sending `STOP`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    recipe: Recipe
    folder: Path
    try:
        # Reading the recipe imports torch.
        recipe, folder = connection.recv()
    except EOFError:
        return
    is_stopped = threading.Event()
    threading.Thread(target=_watch_parent, args=(connection, is_stopped), daemon=True).start()

    def report(done: int, total: int, note: str = "") -> None:
        connection.send((done, total, note))

    import torch

    from vl_lst.errors import EXPLAINED_ERRORS, Preempted, TrainingError
    from vl_lst.training.session import train

    torch.set_num_threads(num_threads)
    try:
        outcome = Outcome(record=train(recipe, folder, resume=True, report=report))
    except Preempted as stopped:
        if is_stopped.is_set():
            return
        outcome = Outcome(error=TrainingError(f"{stopped}. Run the same command again to resume."))
    except EXPLAINED_ERRORS as error:
        outcome = Outcome(error=_sendable(error))
    except Exception as error:  # noqa: BLE001 - one run must not end the others
        traceback.print_exc()
        outcome = Outcome(error=TrainingError(f"{type(error).__name__}: {error}"))
    connection.send(outcome)


def _watch_parent(connection: "Connection", is_stopped: threading.Event) -> None:
    """Wait for `STOP`, and stop the training; exit when the parent has been killed.

    An orphan must not train on, or write to a folder that the next attempt uses.
    """
    try:
        connection.recv()
    except (EOFError, OSError):
        os._exit(1)
    is_stopped.set()
    # Until training handles this signal, there is nothing to save, and it ends the process.
    os.kill(os.getpid(), signal.SIGTERM)


def _sendable(error: Exception) -> Exception:
    """Return an error, or one with its message if the parent could not receive it."""
    from vl_lst.errors import TrainingError

    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - pickled in the same line
    except Exception:  # noqa: BLE001 - whatever an error class does when it is copied
        return TrainingError(str(error))
    return error
