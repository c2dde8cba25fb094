"""State for resuming a run exactly: counters, optimizer state, random number generators."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from eval.run_files import GitState, first_problem
from vl_lst.errors import CheckpointError

__all__ = [
    "Best",
    "Counters",
    "optimizer_tensors",
    "random_state",
    "restore_optimizer",
    "restore_random_state",
]


class Best(BaseModel):
    """Best validation score so far.

    Args:
        score: Score in percent.
        step: Number of steps done when it was reached.
    """

    model_config = ConfigDict(extra="forbid")

    score: float
    step: int


class Counters(BaseModel):
    """Progress of a run, as the manifest of its checkpoints stores it.

    Args:
        step: Number of steps done.
        processes: Number of processes that train together.
        metrics_bytes: Size of `metrics.jsonl` at that step.
        window_losses: Sum of each task's losses since the last line of `metrics.jsonl`.
        window_steps: Number of those losses, by task.
        best: Best mean of the tasks' primary metrics.
        best_metrics: All metrics of each task at that step.
        protocols: Official scoring rules, by task.
        best_of_task: Best score of each task on its own.
        seconds: Time spent in training steps.
        examples: Number of examples trained on.
        saved_for_backward: Bytes saved for the backward pass by part, measured on the first batch
            of each task.
        checkouts: Git checkouts that sessions have trained with, in order.
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
        """Return the counters of a checkpoint.

        Args:
            state: State in the checkpoint's manifest.
            processes: Number of processes of this session.

        Raises:
            CheckpointError: The counters are damaged, or the number of processes has changed.
        """
        try:
            counters = cls.model_validate(state)
        except ValidationError as error:
            raise CheckpointError(
                f"the manifest of the checkpoint is damaged: {first_problem(error)}"
            ) from None
        if counters.processes != processes:
            command = f"torchrun --nproc-per-node {counters.processes} -m vl_lst train"
            advice = "without torchrun" if counters.processes == 1 else f"as with `{command}`"
            raise CheckpointError(
                f"the number of processes is {processes}; expected {counters.processes} as before, "
                "since batches and random numbers depend on it. Resume with that number, "
                f"{advice}."
            )
        return counters


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, trainable: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return the state of the optimizer as {`PARAMETER.MOMENT`: tensor}."""
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
    """Load state that `optimizer_tensors` returned into an optimizer.

    Raises:
        CheckpointError: The state belongs to other parameters.
    """
    for key, value in saved.items():
        name, _, moment = key.rpartition(".")
        parameter = trainable.get(name)
        if parameter is None or value.shape not in (parameter.shape, torch.Size(())):
            raise CheckpointError(
                f"the training state of the checkpoint does not fit the model: {key}"
            )
        optimizer.state[parameter][moment] = value.to(parameter.device, copy=True)


def random_state(device: torch.device) -> list[Tensor]:
    """Return the states of the generators that dropout uses: the CPU's and a CUDA device's."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def restore_random_state(states: Sequence[Tensor], device: torch.device) -> None:
    """Set the generators to the states that `random_state` returned.

    Raises:
        CheckpointError: The states belong to another type of device.
    """
    if len(states) != (2 if device.type == "cuda" else 1):
        raise CheckpointError(
            f"the device is {device.type}, but the run was trained on another type of device, so "
            "it cannot be resumed exactly. Use the same type of device."
        )
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
