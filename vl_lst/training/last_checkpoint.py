"""The last checkpoint of a run, with everything that an exact resume needs."""

import logging
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from vl_lst.recipes.building import BuiltModel
from vl_lst.runs.checkpoint import (
    MODEL,
    TRAINING_STATE,
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    load_parameters,
    save_checkpoint,
)
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.state import (
    Counters,
    optimizer_tensors,
    restore_optimizer,
    restore_random_state,
)

__all__ = ["load_last_checkpoint", "save_last_checkpoint"]

log = logging.getLogger(__name__)

# Prefixes of tensor names in the training state.
OPTIMIZER_PREFIX = "optimizer."
RANDOM_PREFIX = "random."


def save_last_checkpoint(
    directory: RunDirectory,
    built: BuiltModel,
    optimizer: torch.optim.Optimizer,
    counters: Counters,
    random_states: Sequence[Sequence[Tensor]],
) -> None:
    """Replace the last checkpoint of a run.

    Args:
        directory: Run directory.
        built: The model.
        optimizer: Optimizer of its trainable parameters.
        counters: Counters of the run.
        random_states: States of the random generators of each process.

    Raises:
        CheckpointError: It cannot be written.
    """
    moments = optimizer_tensors(optimizer, built.trainable)
    training_state = {OPTIMIZER_PREFIX + name: value for name, value in moments.items()}
    for process, generators in enumerate(random_states):
        for place, state in enumerate(generators):
            training_state[f"{RANDOM_PREFIX}{process}.{place}"] = state
    save_checkpoint(
        directory.last,
        Checkpoint(
            {MODEL: built.stored, TRAINING_STATE: training_state},
            counters.model_dump(mode="json"),
        ),
    )


def load_last_checkpoint(
    directory: RunDirectory,
    built: BuiltModel,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> Counters | None:
    """Restore model, optimizer and random generators from the last checkpoint of a run.

    Args:
        directory: Run directory.
        built: Model to restore.
        optimizer: Optimizer to restore.
        accelerator: The processes; each restores its own random generators.

    Returns:
        Counters of the run, `None` if it has no checkpoint.

    Raises:
        CheckpointError: The checkpoint is damaged, of another model, or was written with another
            number of processes or on another kind of device.
    """
    folder = directory.last
    if find_checkpoint(folder) is None:
        return None
    checkpoint = load_checkpoint(folder, MODEL, TRAINING_STATE)
    counters = Counters.from_manifest(checkpoint.state, processes=accelerator.num_processes)
    load_parameters(built.stored, checkpoint.tensors[MODEL], source=folder)
    saved = checkpoint.tensors[TRAINING_STATE]
    moments = {
        name.removeprefix(OPTIMIZER_PREFIX): value
        for name, value in saved.items()
        if name.startswith(OPTIMIZER_PREFIX)
    }
    restore_optimizer(optimizer, built.trainable, moments)
    own_prefix = f"{RANDOM_PREFIX}{accelerator.process_index}."
    names = sorted(name for name in saved if name.startswith(own_prefix))
    restore_random_state([saved[name] for name in names], accelerator.device)
    return counters
