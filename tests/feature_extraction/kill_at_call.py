"""Kill a process at one of its calls, for tests of interruptions."""

import os
import signal
from collections.abc import Callable

__all__ = ["Call", "kill_at_call"]

Call = Callable[..., object]


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
