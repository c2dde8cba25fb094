"""Trains in a process of its own that kills itself at the n-th thing it does to its run."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets  # noqa: F401 - loaded once, in the process all others are forked from
import torch
from accelerate import Accelerator

from vl_lst.recipes import load_recipe
from vl_lst.runs.metrics import MetricsLog
from vl_lst.training.session import train


class Trigger:
    """Counts what happens and sends SIGKILL in place of the n-th event."""

    def __init__(self, event: int) -> None:
        self.left = event

    def watch(self, owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def watched(*arguments: Any, **keywords: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **keywords)

        setattr(owner, name, watched)


def main(recipe: Path, out: Path, event: int) -> None:
    """Train, or go on, until `event` things have happened; 0 trains to the end."""
    torch.set_num_threads(1)
    trigger = Trigger(event)
    trigger.watch(os, "fsync")
    for name in ("rename", "replace", "mkdir"):
        trigger.watch(Path, name)
    trigger.watch(Accelerator, "backward")
    trigger.watch(MetricsLog, "write")
    train(load_recipe(recipe), out, resume=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
