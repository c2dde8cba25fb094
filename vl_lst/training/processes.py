"""Processes that train together: how they start, and how one's failure becomes everyone's."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vl_lst.errors import EXPLAINED_ERRORS, LaunchError, ProcessFailedError, TrainingError
from vl_lst.launch import Launch, join_process_group

__all__ = [
    "agreed",
    "distribute",
    "ignored_settings",
    "is_lost_connection",
    "launch_environment",
    "require_equal",
    "start_processes",
]

PREFIXES = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_", "MEGATRON_LM_", "FP8_", "FORK_LAUNCHED")
# Values with which a variable asks for nothing.
NEUTRAL = frozenset({"", "0", "1", "no", "false", "none", "default"})
TOPOLOGY = (
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "PMI_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
)
# What does not change what is computed.
UNREMARKABLE = frozenset({"ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE"})
# What gloo and NCCL say where a process at the other end has ended.
LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


@contextmanager
def launch_environment(launch: Launch) -> Iterator[None]:
    """Hide accelerate's own variables during the block, so that the recipe alone decides.

    They are left over, or set by `accelerate launch` from its own defaults; accelerate and
    transformers read such as ACCELERATE_MIXED_PRECISION and FSDP_CPU_RAM_EFFICIENT_LOADING.

    Args:
        launch: What the variables of the launcher say in the block.
    """
    hidden = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PREFIXES) or name in TOPOLOGY
    }
    shown: dict[str, str] = {}
    if launch.num_processes > 1:
        shown = {
            "WORLD_SIZE": str(launch.num_processes),
            "RANK": str(launch.rank),
            "LOCAL_RANK": str(launch.local_rank),
            "LOCAL_WORLD_SIZE": str(launch.local_num_processes),
        }
    for name in hidden:
        del os.environ[name]
    os.environ.update(shown)
    try:
        yield
    finally:
        for name in (*shown, *TOPOLOGY):
            os.environ.pop(name, None)
        os.environ.update(hidden)


def start_processes(
    launch: Launch, device: torch.device, *, has_unused_parameters: bool
) -> Accelerator:
    """Join the other processes, if any, and return what distributes the model among them.

    Args:
        launch: What the launcher says.
        device: Kind of device to train on.
        has_unused_parameters: Whether a step may leave parameters without gradients.

    Raises:
        LaunchError: The processes do not find each other, or have no CUDA device each.
        TrainingError: The program that calls has set up accelerate in another way.
    """
    if launch.num_processes > 1 and not torch.distributed.is_initialized():
        if device.type == "cuda":
            devices = torch.cuda.device_count()
            if launch.local_num_processes > devices:
                raise LaunchError(
                    f"{launch.local_num_processes} processes were started on this machine, which "
                    f"has {devices} CUDA devices, expected at most one process per device. Start "
                    "fewer, or set training.device to cpu."
                )
            torch.cuda.set_device(launch.local_rank % devices)
        join_process_group(launch, "nccl" if device.type == "cuda" else "gloo")
    parallel = DistributedDataParallelKwargs(find_unused_parameters=has_unused_parameters)
    try:
        return Accelerator(
            mixed_precision="no",
            cpu=device.type == "cpu",
            dynamo_backend="no",
            kwargs_handlers=[parallel],
        )
    except ValueError as error:
        raise TrainingError(
            f"accelerate was set up in another way in this program before: {error}. Train in a "
            "fresh Python process."
        ) from error


def distribute(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Move a model to this process's device, and let gradients be averaged over the processes.

    Frozen parameters are the same in all processes and not sent: they are the larger part, and
    quantised ones cannot be sent.

    Args:
        accelerator: The processes.
        model: With everything frozen but what trains.
    """
    if accelerator.num_processes > 1:
        frozen = [name for name, each in model.named_parameters() if not each.requires_grad]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)
    prepared: nn.Module = accelerator.prepare_model(model)
    return prepared


def require_equal(accelerator: Accelerator, card: str) -> None:
    """Refuse processes that were given different data or weights, such as on different machines.

    Args:
        accelerator: The processes.
        card: What this process trains with.

    Raises:
        TrainingError: In all processes, if the cards differ.
    """
    cards: list[str] = gather_object([card])
    if different := [rank for rank, each in enumerate(cards) if each != cards[0]]:
        raise TrainingError(
            f"process {different[0]} of {len(cards)} found other training data, features or "
            "backbone weights than process 0, expected the same in all. Copy the same files to "
            "every machine."
        )


def ignored_settings(environment: Mapping[str, str], device: torch.device) -> list[str]:
    """List variables, as NAME=VALUE, that ask accelerate for something else than training does.

    Args:
        environment: `os.environ`.
        device: What is trained on.
    """
    granted = {"ACCELERATE_USE_CPU"} if device.type == "cpu" else set()
    return sorted(
        f"{name}={value}"
        for name, value in environment.items()
        if name.startswith(PREFIXES)
        and name not in UNREMARKABLE | granted
        and value.strip().lower() not in NEUTRAL
    )


@contextmanager
def agreed(accelerator: Accelerator) -> Iterator[None]:
    """Let the block fail in every process if it fails in one, so that none waits for another.

    The first process raises the error; the others raise `ProcessFailedError`. The block must not
    contain collective operations.

    Args:
        accelerator: The processes.

    Raises:
        TrainingError: In the first process, if the block failed in others only.
        ProcessFailedError: In the other processes.
    """
    if accelerator.num_processes == 1:
        yield
        return
    failure: Exception | None = None
    try:
        yield
    except EXPLAINED_ERRORS as error:
        failure = error
    messages: list[str | None] = gather_object([None if failure is None else str(failure)])
    failed = [rank for rank, message in enumerate(messages) if message is not None]
    if not failed:
        return
    if failure is not None and accelerator.is_main_process:
        raise failure
    first = failed[0]
    if accelerator.is_main_process:
        raise TrainingError(f"{messages[first]} (in process {first} of {len(messages)})")
    raise ProcessFailedError(f"process {first} of {len(messages)} failed: {messages[first]}")


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether a collective operation failed because another process has ended."""
    return isinstance(error, torch.distributed.DistBackendError) or any(
        text in str(error) for text in LOST_CONNECTION
    )
