"""Processes that train one model together: start, shared model, equal precisions and inputs."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vl_lst.errors import LaunchError, TrainingError
from vl_lst.launch import Launch, join_process_group
from vl_lst.recipes import Recipe
from vl_lst.runs.directory import recipe_differences

__all__ = [
    "distribute",
    "ignored_settings",
    "join_processes",
    "launch_environment",
    "require_same_inputs",
    "require_same_recipe",
    "with_same_precisions",
]

# Prefixes of the variables that accelerate reads.
ACCELERATE_PREFIXES = (
    "ACCELERATE_",
    "FSDP_",
    "PARALLELISM_CONFIG_",
    "MEGATRON_LM_",
    "FP8_",
    "FORK_LAUNCHED",
)
# Values that leave a setting off or at its default.
DEFAULT_VALUES = frozenset({"", "0", "1", "no", "false", "none", "default"})
TOPOLOGY_VARIABLES = (
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "PMI_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
)
# Variables that do not change what is computed.
HARMLESS_VARIABLES = frozenset({"ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE"})


@contextmanager
def launch_environment(launch: Launch) -> Iterator[None]:
    """Hide accelerate's own variables during the block, so that the recipe alone decides.

    accelerate and transformers read variables such as ACCELERATE_MIXED_PRECISION and
    FSDP_CPU_RAM_EFFICIENT_LOADING. They may be left over from other work, or be defaults that
    `accelerate launch` sets.

    Args:
        launch: This process; in the block, the launcher's variables have its values.
    """
    hidden = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(ACCELERATE_PREFIXES) or name in TOPOLOGY_VARIABLES
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
        for name in (*shown, *TOPOLOGY_VARIABLES):
            os.environ.pop(name, None)
        os.environ.update(hidden)


def join_processes(
    launch: Launch, device: torch.device, *, has_unused_parameters: bool
) -> Accelerator:
    """Join the other processes, if any, and return their accelerator.

    Args:
        launch: This process.
        device: Kind of device to train on.
        has_unused_parameters: Whether a step may leave parameters without gradients.

    Raises:
        LaunchError: The processes cannot connect, or there are more of them than CUDA devices.
        TrainingError: The calling program has set up accelerate with other settings.
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
            f"this program has already set up accelerate with other settings: {error}. Train in a "
            "new Python process."
        ) from error


def distribute(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Move a model to this process's device and average its gradients over the processes.

    Frozen parameters are equal in all processes and not broadcast: they are most of the model, and
    quantized ones cannot be broadcast.

    Args:
        accelerator: The processes.
        model: Model in which only trainable parameters require gradients.
    """
    if accelerator.num_processes > 1:
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)
    prepared: nn.Module = accelerator.prepare_model(model)
    return prepared


def require_same_inputs(card: str) -> None:
    """Require that all processes, perhaps on several machines, have the same data and weights.

    Call it after `join_processes`.

    Args:
        card: Digests of this process's data, features and backbone.

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


def require_same_recipe(recipe: Recipe) -> None:
    """Require that all processes train the same recipe, apart from paths.

    A launcher may have started one process for each of several runs. Call it after
    `join_processes`.

    Args:
        recipe: Recipe of this process.

    Raises:
        TrainingError: In all processes, if the recipes differ.
    """
    recipes: list[Recipe] = gather_object([recipe])
    for rank, each in enumerate(recipes):
        if differences := recipe_differences(recipes[0], each):
            raise TrainingError(
                f"process {rank} of {len(recipes)} has another recipe than process 0: "
                f"{'; '.join(differences)}; expected the same, since they train one run together. "
                "To train separate runs, start a job for each, as an array does."
            )


def with_same_precisions(recipe: Recipe) -> Recipe:
    """Return the recipe with the precisions of the first process.

    Machines that train together may have different processors, and `auto` may mean another
    precision on each. Call it after `join_processes`.

    Args:
        recipe: Recipe of this process.
    """
    weights, arithmetic, tf32 = gather_object(
        [(recipe.backbone.precision, recipe.training.precision, recipe.training.tf32)]
    )[0]
    backbone = recipe.backbone.model_copy(update={"precision": weights})
    training = recipe.training.model_copy(update={"precision": arithmetic, "tf32": tf32})
    return recipe.model_copy(update={"backbone": backbone, "training": training})


def ignored_settings(environment: Mapping[str, str], device: torch.device) -> list[str]:
    """Return the variables of accelerate that training ignores, as NAME=VALUE.

    Args:
        environment: `os.environ`.
        device: Training device.
    """
    respected = {"ACCELERATE_USE_CPU"} if device.type == "cpu" else set()
    return sorted(
        f"{name}={value}"
        for name, value in environment.items()
        if name.startswith(ACCELERATE_PREFIXES)
        and name not in HARMLESS_VARIABLES | respected
        and value.strip().lower() not in DEFAULT_VALUES
    )
