"""Timed training steps: forward, backward, optimizer."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from vl_lst.choices import ArithmeticPrecision
from vl_lst.devices import autocast
from vl_lst.models.batch import Batch
from vl_lst.profiling.clock import synchronised_seconds
from vl_lst.recipes.schema import OptimizerSection
from vl_lst.training.optimizer import build_optimizer, optimizer_bytes
from vl_lst.training.resources import WARM_UP_STEPS, PeakMemory

__all__ = ["MeasuredSteps", "StepSeconds", "measure_steps"]

LOSS_AVERAGE = "examples"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSeconds:
    """Seconds of one training step, or medians over several.

    Args:
        forward: Forward pass with the loss.
        backward: Backward pass.
        optimizer: Gradient clipping, update of the parameters, and freeing the gradients.
        step: The whole step.
    """

    forward: float
    backward: float
    optimizer: float
    step: float

    @classmethod
    def median(cls, steps: Sequence["StepSeconds"]) -> "StepSeconds":
        """Return the medians of each field, which need not add up."""
        return cls(
            forward=statistics.median(each.forward for each in steps),
            backward=statistics.median(each.backward for each in steps),
            optimizer=statistics.median(each.optimizer for each in steps),
            step=statistics.median(each.step for each in steps),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSteps:
    """Time and memory of training steps.

    Args:
        seconds: Seconds of each step after warm-up.
        optimizer_state: Size of the optimizer's state, in bytes.
        peak_allocated: Peak memory allocated on CUDA after warm-up, in bytes, model included.
        peak_reserved: Peak memory reserved on CUDA after warm-up, in bytes.
    """

    seconds: list[StepSeconds]
    optimizer_state: int
    peak_allocated: int | None
    peak_reserved: int | None


def measure_steps(
    model: nn.Module,
    trainable: Mapping[str, nn.Parameter],
    batch: Batch,
    *,
    precision: ArithmeticPrecision,
    optimizer: OptimizerSection,
    steps: int,
) -> MeasuredSteps:
    """Train for `WARM_UP_STEPS` and then for `steps`, and measure the latter.

    Args:
        model: Model on the device, in training mode; its parameters change.
        trainable: Trainable parameters, by name.
        batch: Batch of every step, on the device.
        precision: Precision of arithmetic.
        optimizer: Settings of the optimizer.
        steps: Number of measured steps, at least 1.
    """
    device = batch.prompt_index_B.device
    made = build_optimizer(model, trainable, optimizer)
    peak, seconds = PeakMemory(device), []
    for _ in range(WARM_UP_STEPS + steps):
        started = synchronised_seconds(device)
        with autocast(precision, device):
            loss = model(batch, LOSS_AVERAGE)
        forward = synchronised_seconds(device)
        loss.backward()
        backward = synchronised_seconds(device)
        nn.utils.clip_grad_norm_(trainable.values(), optimizer.clip_norm or math.inf)
        made.step()
        made.zero_grad(set_to_none=True)
        del loss
        ended = synchronised_seconds(device)
        seconds.append(
            StepSeconds(
                forward=forward - started,
                backward=backward - forward,
                optimizer=ended - backward,
                step=ended - started,
            )
        )
        peak.step()
    return MeasuredSteps(
        seconds=seconds[WARM_UP_STEPS:],
        optimizer_state=optimizer_bytes(made),
        peak_allocated=peak.allocated,
        peak_reserved=peak.reserved,
    )
