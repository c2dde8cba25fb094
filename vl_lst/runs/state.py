"""State for resuming a run exactly: counters, optimizer state, random number generators."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from eval.run_files import GitState, Inference, first_problem
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
        inference: What answering cost in the last validation, by task.
        recomputes: Whether blocks were recomputed in the backward pass when they were measured.
        checkouts: Git checkouts that sessions have trained with, in order.
        validation_due: Whether the step ends with a validation that was not finished.
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
    inference: dict[str, Inference] = {}
    recomputes: bool | None = None
    checkouts: list[GitState] = []
    validation_due: bool = False

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


@runtime_checkable
class _WithNewState(Protocol):
    """Optimizer whose state is not that of AdamW."""

    def new_state(self, parameter: nn.Parameter) -> Mapping[str, Tensor | int]: ...


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, trainable: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return the state of the optimizer as {`PARAMETER.MOMENT`: tensor}.

    A quantized moment has several tensors, `PARAMETER.MOMENT.PART`.
    """
    return {
        f"{name}.{moment}{part}": tensor
        for name, parameter in trainable.items()
        for moment, value in optimizer.state[parameter].items()
        for part, tensor in _parts(value).items()
    }


def _parts(value: Tensor | int) -> dict[str, Tensor]:
    """Return the tensors in which the data of a state are, by the suffix of their name."""
    if isinstance(value, int):
        return {"": torch.tensor(value)}
    if is_traceable_wrapper_subclass(value):
        names, _ = value.__tensor_flatten__()
        return {f".{name}": getattr(value, name) for name in names}
    return {"": value}


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    trainable: Mapping[str, nn.Parameter],
    saved: Mapping[str, Tensor],
) -> None:
    """Load state that `optimizer_tensors` returned into an optimizer.

    Raises:
        CheckpointError: The state belongs to other parameters or another optimizer.
    """
    unread = dict(saved)
    for name, parameter in trainable.items():
        state = _new_state(optimizer, parameter)
        parts = {
            f"{name}.{moment}{part}": tensor
            for moment, value in state.items()
            for part, tensor in _parts(value).items()
        }
        # A parameter without a gradient so far has no state.
        if not any(key in unread for key in parts):
            continue
        for key, tensor in parts.items():
            found = unread.pop(key, None)
            if found is None or (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
                raise _misfit(key)
            tensor.copy_(found)
        for moment, value in state.items():
            if isinstance(value, int):
                state[moment] = int(parts[f"{name}.{moment}"])
        optimizer.state[parameter] = state
    for key in unread:
        raise _misfit(key)


def _new_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Any]:
    """Return the state of a parameter before its first step."""
    if isinstance(optimizer, _WithNewState):
        return dict(optimizer.new_state(parameter))
    return {
        "step": torch.zeros((), device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, requires_grad=False),
        "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
    }


def _misfit(key: str) -> CheckpointError:
    return CheckpointError(
        f"the training state of the checkpoint does not fit the model: {key} has no parameter of "
        "its shape there. The checkpoint is damaged or of another run: copy the run again, or "
        "train into another --out."
    )


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
