"""Signals with which schedulers end a job, for the commands that continue when they are run again.

This module imports nothing slow, so that a signal is handled before a command has loaded anything.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vl_lst.errors import Preempted
from vl_lst.launch import handle_stop_signals

__all__ = ["stopped_by_signals"]


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let the signals that schedulers send end the block, until training handles them itself.

    Raises:
        Preempted: A signal was received.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Preempted(f"stopped by {signal.Signals(number).name}")

    with handle_stop_signals(stop):
        yield
