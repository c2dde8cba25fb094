"""Train in one of two processes: undisturbed; stopped by a signal to one of them; resumed."""

import os
import signal
import sys

import pytest

from vl_lst.cli import main
from vl_lst.training.trainer import Trainer


def stop_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Send SIGUSR1 to this process after a step."""
    report_step = Trainer._report_step

    def report(self: Trainer) -> None:
        report_step(self)
        if self.counters.step == step:
            os.kill(os.getpid(), signal.SIGUSR1)

    patch.setattr(Trainer, "_report_step", report)


if __name__ == "__main__":
    undisturbed, stopped, *arguments = sys.argv[1:]
    codes = [main([*arguments, "--out", undisturbed])]
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["SLURM_PROCID"] == "1":
            stop_at(3, patch)
        codes.append(main([*arguments, "--out", stopped]))
    codes.append(main([*arguments, "--out", stopped, "--resume"]))
    sys.exit(0 if codes == [0, 75, 0] else f"exit codes: {codes}")
