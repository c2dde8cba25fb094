"""What a run must remember to go on exactly: counters, moments of AdamW, random generators."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from vl_lst.errors import CheckpointError
from vl_lst.runs.git import GitState

__all__ = [
    "Best",
    "Counters",
    "optimizer_tensors",
    "random_state",
    "restore_optimizer",
    "restore_random_state",
]


class Best(BaseModel):
    """The highest score so far.

    Args:
        score: In percent.
        step: Steps done when it was reached.
    """

    model_config = ConfigDict(extra="forbid")

    score: float
    step: int


class Counters(BaseModel):
    """How far a run is; stands in the manifest of its checkpoints.

    Args:
        step: Steps done.
        processes: How many processes train.
        metrics_bytes: Size of `metrics.jsonl` at that step.
        window_losses: Sum of each task's losses since the last line of it.
        window_steps: Numbers of those losses.
        best: The best mean of the tasks' primary metrics.
        best_metrics: All metrics of each task then.
        protocols: Which official rules they follow.
        best_of_task: The best of each task by itself.
        seconds: Spent in training steps.
        examples: Seen in training steps.
        saved_for_backward: Bytes by part, measured on the first batch of each task.
        checkouts: Of the code, in the order in which sessions trained with them.
    """

    model_config = ConfigDict(extra="forbid")

    step: int = 0
    processes: int = 1
    metrics_bytes: int = 0
    window_losses: dict[str, float] = {}
    window_steps: dict[str, int] = {}
    best: Best | None = None
    best_metrics: dict[str, dict[str, Any]] = {}
    protocols: dict[str, str] = {}
    best_of_task: dict[str, Best] = {}
    seconds: float = 0.0
    examples: int = 0
    saved_for_backward: dict[str, dict[str, int]] = {}
    checkouts: list[GitState] = []

    @classmethod
    def from_manifest(cls, state: Mapping[str, Any], *, processes: int) -> "Counters":
        """Read the counters of a checkpoint.

        Raises:
            CheckpointError: They are damaged, or another number of processes wrote them.
        """
        try:
            counters = cls.model_validate(state)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise CheckpointError(
                f"the manifest of the checkpoint is damaged: {first['loc']}: {first['msg']}"
            ) from None
        if counters.processes != processes:
            raise CheckpointError(
                f"the run was trained by {counters.processes} processes and is to go on with "
                f"{processes}; batches and random numbers would differ. Start it as before."
            )
        return counters


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, trainable: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimiser's state by `NAME.MOMENT`."""
    return {
        f"{name}.{moment}": value
        for name, parameter in trainable.items()
        for moment, value in optimizer.state[parameter].items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    trainable: Mapping[str, nn.Parameter],
    saved: Mapping[str, Tensor],
) -> None:
    """Give the optimiser the state `optimizer_tensors` returned.

    Raises:
        CheckpointError: It has state for other parameters.
    """
    for key, value in saved.items():
        name, _, moment = key.rpartition(".")
        parameter = trainable.get(name)
        if parameter is None or value.shape not in (parameter.shape, torch.Size(())):
            raise CheckpointError(f"the training state of the checkpoint does not fit: {key}")
        optimizer.state[parameter][moment] = value.to(parameter.device, copy=True)


def random_state(device: torch.device) -> list[Tensor]:
    """States of the generators that dropout draws from: the CPU's, and a CUDA device's."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def restore_random_state(states: Sequence[Tensor], device: torch.device) -> None:
    """Set the generators to what `random_state` returned.

    Raises:
        CheckpointError: The states are of another kind of device.
    """
    if len(states) != (2 if device.type == "cuda" else 1):
        raise CheckpointError(
            f"the run was trained on another kind of device than {device.type}, so it cannot go "
            "on exactly; start it as before"
        )
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
