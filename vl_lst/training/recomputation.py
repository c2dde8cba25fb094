"""Whether blocks run again in the backward pass, decided by memory (`recompute: auto`).

B examples, U unique prompts, T prompt tokens, L answer tokens.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from vl_lst.data.task_data import TaskData
from vl_lst.devices import autocast
from vl_lst.models.batch import Batch
from vl_lst.models.recomputing import set_recompute
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel
from vl_lst.training.resources import memory_available
from vl_lst.training.saved_bytes import TOTAL, saved_bytes_by_part

__all__ = ["Recomputation", "kept_bytes", "start_recomputation"]

log = logging.getLogger(__name__)

# Besides what is saved, a step has temporary tensors in the forward and the backward pass.
TEMPORARY_SHARE = 0.25
# Other programs, and the processes that load batches, need memory too.
USABLE_SHARE = 0.8
# AdamW has two moments per parameter, in float32 like the gradients.
MOMENTS = 2


@dataclass(slots=True)
class Recomputation:
    """How blocks of a model compute the backward pass.

    Args:
        built: The model.
        is_on: Whether they save only their inputs and run again; `None` if they cannot.
        may_fall_back: Whether they run again from the first step on that does not fit the memory.
    """

    built: BuiltModel
    is_on: bool | None
    may_fall_back: bool = False

    def fall_back(self) -> None:
        """Let the blocks run again from now on, since a step did not fit the memory."""
        log.info(
            "a training step that keeps everything does not fit the memory of the device: blocks "
            "run again in the backward pass from now on, with the same results "
            "(method.options.recompute: auto)"
        )
        set_recompute(self.built.model, True)
        self.is_on, self.may_fall_back = True, False


def start_recomputation(
    recipe: Recipe, built: BuiltModel, data: Mapping[str, TaskData], accelerator: Accelerator
) -> Recomputation:
    """Return how blocks compute the backward pass, as the recipe says or memory allows.

    With `auto`, all processes do the same: they keep everything if the longest step that the recipe
    allows fits the memory that is available to each of them. On CUDA, an estimate that was too low
    does no harm to a single process, which then falls back to running blocks again.

    Args:
        recipe: Settings of the run.
        built: The model on its device, with all parameters.
        data: Data of each task, by name.
        accelerator: The processes that train together.
    """
    option = recipe.method.options.get("recompute")
    if option != "auto":
        return Recomputation(built, option if isinstance(option, bool) else None)
    device, processes = accelerator.device, accelerator.num_processes
    available = memory_available(device)
    if available is not None and device.type != "cuda":
        available //= processes  # which may all be on this machine
    needed = kept_bytes(recipe, built, data, processes=processes)
    fits = available is not None and needed <= USABLE_SHARE * available
    recompute = not all(gather_object([fits]))
    set_recompute(built.model, recompute)
    log.info(
        "%s: a training step that keeps everything takes up to %.2f GiB besides the model, of %s "
        "(method.options.recompute: auto)",
        "blocks run again in the backward pass"
        if recompute
        else "everything is kept for the backward pass",
        needed / 2**30,
        "unknown memory" if available is None else f"{available / 2**30:.2f} GiB available",
    )
    is_alone_on_cuda = processes == 1 and device.type == "cuda"
    return Recomputation(built, recompute, may_fall_back=is_alone_on_cuda and not recompute)


def kept_bytes(
    recipe: Recipe, built: BuiltModel, data: Mapping[str, TaskData], *, processes: int
) -> int:
    """Estimate what a training step takes besides the model if everything is kept.

    Two short forward passes of each task, of one and of two of its longest possible examples, give
    the bytes per example and those that every step needs. The random state stays as it was, and
    the blocks keep everything afterwards.

    Args:
        recipe: Settings of the run.
        built: The model on its device.
        data: Data of each task, by name.
        processes: Number of processes that share a batch.
    """
    model = built.model
    set_recompute(model, False)
    model.train()
    most = 0
    for name, each in data.items():
        rows = [int(row) for row in each.rows[:2]]
        batch = each.train[[(0, row) for row in (*rows, *rows)[:2]]]
        task = each.examples.task
        pair = _longest(batch, task.max_prompt_tokens, task.max_answer_tokens)
        with autocast(recipe.training.precision, model.device):
            one, two = (
                saved_bytes_by_part(model, part.to(model.device), task.loss_average)[TOTAL]
                for part in (_first(pair), pair)
            )
        examples = math.ceil(recipe.training.batch_size[name] / processes)
        most = max(most, one + (examples - 1) * (two - one))
    gradients = sum(parameter.nbytes for parameter in built.trainable.values())
    return math.ceil((1 + TEMPORARY_SHARE) * most) + (1 + MOMENTS) * gradients


def _longest(batch: Batch, prompt_tokens: int, answer_tokens: int) -> Batch:
    """Return a batch without sharing whose prompts and answers are as long as they may be.

    Args:
        batch: Batch of two examples.
        prompt_tokens: T of the result.
        answer_tokens: L of the result, if there are answers.
    """
    batch = batch.unshare()
    labels_BL = batch.labels_BL
    return replace(
        batch,
        prompt_ids_UT=_fill(batch.prompt_ids_UT, prompt_tokens),
        labels_BL=None if labels_BL is None else _fill(labels_BL, answer_tokens),
        states=batch.states and batch.states.lengthened(prompt_tokens, answer_tokens),
    )


def _fill(ids: Tensor, length: int) -> Tensor:
    """Return ids of this length that repeat the first one, which is no padding."""
    return ids[:, :1].repeat(1, length)


def _first(pair: Batch) -> Batch:
    """Return the first example of a batch without sharing."""
    tensors: dict[str, Any] = {
        name: value[:1]
        for name in pair.__dataclass_fields__
        if isinstance(value := getattr(pair, name), Tensor)
    }
    row = torch.zeros(1, dtype=torch.long)
    states = pair.states and pair.states.select(row, row)
    return replace(pair, example_ids=pair.example_ids[:1], states=states, **tensors)
