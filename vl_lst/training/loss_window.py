"""Losses of training steps: checked to be finite, and averaged per line of metrics."""

import math
from dataclasses import dataclass

from torch import Tensor

from vl_lst.errors import TrainingError
from vl_lst.runs.state import Counters

__all__ = ["LossWindow", "StepResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Loss and gradient norm of a step, which the device may still be computing.

    Args:
        step: Number of the step, counted from 1.
        task: Task of the batch.
        example_ids: Examples of the batch in this process.
        loss: Mean over the processes, a scalar.
        gradient_norm: Norm before clipping, a scalar.
    """

    step: int
    task: str
    example_ids: tuple[str, ...]
    loss: Tensor
    gradient_norm: Tensor


class LossWindow:
    """Losses since the last line of metrics.

    The result of a step is read when the next step has been launched, so that a GPU does not wait.

    Args:
        counters: Counters that hold the sums, so that checkpoints include them.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._pending: StepResult | None = None
        self.gradient_norm: float | None = None
        """Gradient norm of the last step that was read."""
        self.mean: float | None = None
        """Mean loss of the window when a step was last added to it."""

    def add(self, result: StepResult) -> None:
        """Read the previous step, and keep this one until the next call.

        Raises:
            TrainingError: A loss or gradient of the previous step is not finite.
        """
        self.read_pending()
        self._pending = result
        steps = sum(self._counters.window_steps.values())
        if steps:
            self.mean = sum(self._counters.window_losses.values()) / steps

    def read_pending(self) -> None:
        """Wait for the last step and add it to the window.

        Raises:
            TrainingError: Its loss or gradient is not finite.
        """
        result, self._pending = self._pending, None
        if result is None:
            return
        loss, norm = float(result.loss), float(result.gradient_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient is {norm}"
            raise TrainingError(
                f"{what} at step {result.step}, on the examples {', '.join(result.example_ids)} "
                f"of {result.task}. Check their answers and, if they have any, their features and "
                "stored states. If they are correct, lower optimizer.lr or optimizer.clip_norm and "
                "start a new run."
            )
        losses, steps = self._counters.window_losses, self._counters.window_steps
        losses[result.task] = losses.get(result.task, 0.0) + loss
        steps[result.task] = steps.get(result.task, 0) + 1
        self.gradient_norm = norm

    def close(self) -> tuple[float, dict[str, float]]:
        """Return the mean loss of all steps and of each task's steps, and open a new window."""
        self.read_pending()
        counters = self._counters
        losses, steps = counters.window_losses, counters.window_steps
        counters.window_losses, counters.window_steps = {}, {}
        mean = sum(losses.values()) / sum(steps.values())
        return mean, {task: losses[task] / steps[task] for task in losses}
