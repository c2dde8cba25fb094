"""Kill a process at one of its calls, for tests of interruptions."""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from feature_extraction.store import resumable_writer

__all__ = ["Call", "in_child", "kill_at_call", "kill_at_change"]

Call = Callable[..., object]
SYSTEM_CALLS = ("pwrite", "write", "fsync", "truncate", "replace", "open")


def in_child(work: Callable[[], None], *, kill_after: float | None = None) -> int:
    """Run `work` in a forked process and return its exit code; optionally kill it after seconds."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    if kill_after is not None:
        time.sleep(kill_after)
        process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def kill_at_call(number: int, *, before: bool) -> Callable[[Call], Call]:
    """Return a decorator for functions: this process kills itself at their n-th call.

    Args:
        number: Number of the call, counted over all decorated functions.
        before: Whether to kill the process before that call instead of after it.
    """
    count = 0

    def counted(function: Call) -> Call:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == number and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    return counted


def kill_at_change(number: int, writer: ModuleType, *, before: bool) -> None:
    """Make this process kill itself at its n-th call that changes a file that can be resumed.

    Args:
        number: Number of the call.
        writer: Module with the subclass of `ResumableWriter`.
        before: See `kill_at_call`.
    """
    counted: Callable[[Any], Any] = kill_at_call(number, before=before)
    for name in SYSTEM_CALLS:
        setattr(os, name, counted(getattr(os, name)))
    shutil.rmtree = counted(shutil.rmtree)
    setattr(writer, "write_layout", counted(writer.write_layout))  # noqa: B010 - of any module
    resumable_writer.SECONDS_BETWEEN_COMMITS = 0.0
