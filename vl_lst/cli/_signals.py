"""Signals with which schedulers end a job, for the commands that continue when they are run again.

This module imports nothing slow, so that a signal is handled before a command has loaded anything.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vl_lst.errors import Preempted
from vl_lst.launch import STOP_SIGNALS

__all__ = ["stopped_by_signals"]


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let the signals that schedulers send end the block, until training handles them itself.

    Python handles signals in its main thread only; in others, the block changes nothing.

    Raises:
        Preempted: A signal was received.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Preempted(f"stopped by {signal.Signals(number).name}")

    former = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            # None: not installed by Python, which cannot restore it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
