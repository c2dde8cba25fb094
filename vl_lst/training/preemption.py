"""Stop training on a signal, with a checkpoint from which the run resumes exactly.

Schedulers send a signal some time before they end a job: SIGTERM, or SIGUSR1 if the job asked for
it. Processes that train together stop at the same step, whichever of them received the signal.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from vl_lst.errors import LaunchError, Preempted
from vl_lst.launch import MAX_WAIT, handle_stop_signals

__all__ = ["StopRequest", "stop_on_signals"]

# A launcher may forward a signal that the scheduler has sent to all processes.
SAME_REQUEST_SECONDS = 2.0


class StopRequest:
    """Whether processes that train together have been asked to stop.

    Args:
        accelerator: The processes.

    Raises:
        LaunchError: The processes cannot connect.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._signal = 0
        self._seconds = 0.0
        self._is_shared = accelerator.num_processes > 1
        self._group: Any = None
        # Reading a number from a CUDA device would wait for its queued work in every step.
        if self._is_shared and torch.distributed.get_backend() != "gloo":
            try:
                self._group = torch.distributed.new_group(backend="gloo", timeout=MAX_WAIT)
            except RuntimeError as error:
                raise LaunchError(
                    f"the processes cannot connect through gloo, by which they agree when to stop: "
                    f"{str(error).splitlines()[0]:.300}. Set GLOO_SOCKET_IFNAME to the network "
                    "interface that connects the machines, such as eth0."
                ) from error

    @property
    def is_received(self) -> bool:
        """Whether this process has received a signal."""
        return bool(self._signal)

    def raise_if_agreed(self) -> None:
        """Raise in all processes if one has received a signal; a collective operation.

        Raises:
            Preempted: A process has received a signal.
        """
        number = self._signal
        if self._is_shared:
            shared = torch.tensor(number)
            torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX, self._group)
            number = int(shared)
        if number:
            raise Preempted(f"stopped by {signal.Signals(number).name}")

    def receive(self, number: int, _frame: FrameType | None = None) -> None:
        """Note a signal; a second one, some seconds later, ends the process at once."""
        now = time.monotonic()
        if not self._signal:
            self._signal, self._seconds = number, now
        elif now - self._seconds > SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextmanager
def stop_on_signals(accelerator: Accelerator) -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGUSR1 into a request to stop, during the block; see `handle_stop_signals`.

    Args:
        accelerator: The processes that train together.

    Raises:
        LaunchError: The processes cannot connect.
    """
    request = StopRequest(accelerator)
    with handle_stop_signals(request.receive):
        yield request
