"""Train in a process that kills itself at the n-th change of its run."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets  # noqa: F401 - loaded once, in the process from which all others fork
import torch
from accelerate import Accelerator

from vl_lst.recipes import load_recipe
from vl_lst.runs.metrics import MetricsLog
from vl_lst.training.session import train


class Trigger:
    """Counts calls of functions and sends SIGKILL instead of the n-th one."""

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
    """Train or resume until the call number `event`; 0 trains to the end."""
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
