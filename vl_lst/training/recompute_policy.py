"""Whether blocks are recomputed in the backward pass, decided by memory (`recompute: auto`).

T prompt tokens, L answer tokens.
"""

import logging
import math

import torch

from vl_lst.devices import autocast
from vl_lst.models.batch import Batch
from vl_lst.models.recompute_flag import set_recompute
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel
from vl_lst.training.resources import memory_available
from vl_lst.training.saved_bytes import TOTAL, saved_bytes_by_part

__all__ = ["RecomputePolicy"]

log = logging.getLogger(__name__)

# Besides what is saved, a step has temporary tensors in the forward and the backward pass.
TEMPORARY_SHARE = 0.25
# Other programs, and the processes that load batches, need memory too.
USABLE_SHARE = 0.8
# AdamW has two moments per parameter, in float32 like the gradients.
MOMENTS = 2


class RecomputePolicy:
    """How blocks of a model compute the backward pass: as the recipe says, or as memory allows.

    With `auto`, they keep everything as long as a training step fits the memory that was available
    before the first one, and are recomputed from the first batch on that does not: losses and
    gradients are the same. On CUDA, a single process may also try, and fall back if the memory is
    full.

    Args:
        recipe: Settings of the run.
        built: The model on its device.
        processes: Number of processes that share a batch, perhaps on one machine.
        loss_averages: `Task.loss_average` of each task, by name.
    """

    def __init__(
        self, recipe: Recipe, built: BuiltModel, processes: int, loss_averages: dict[str, str]
    ) -> None:
        self._recipe = recipe
        self._built = built
        self._processes = processes
        self._loss_averages = loss_averages
        option = recipe.method.options.get("recompute")
        self._decides = option == "auto"
        self.is_on: bool | None = option if isinstance(option, bool) else None
        """Whether blocks save only their inputs and are recomputed; `None` if they cannot be, and
        with `auto` before the first batch."""
        self._available: int | None = None
        # Lengths (T, L) of the batches that fit, by task; none is shorter than another in both.
        self._fitting: dict[str, list[tuple[int, int]]] = {}

    @property
    def may_fall_back(self) -> bool:
        """Whether a step that does not fit the memory may be tried again with `fall_back`."""
        is_cuda = self._built.model.device.type == "cuda"
        return self._decides and is_cuda and self._processes == 1

    def prepare(self, batch: Batch) -> None:
        """Decide how the blocks compute the next step, before which there are no gradients.

        Args:
            batch: Batch of the step, on the device.
        """
        if not self._decides:
            return
        labels_BL = batch.labels_BL
        lengths = (batch.prompt_ids_UT.shape[1], 0 if labels_BL is None else labels_BL.shape[1])
        fitting = self._fitting.setdefault(batch.task, [])
        if any(lengths[0] <= known[0] and lengths[1] <= known[1] for known in fitting):
            return
        if self.is_on is None:
            # Only now: memory that later steps have freed may still belong to the process.
            self._available = self._memory_available()
        needed = self._needed(batch)
        if self._available is None or needed > USABLE_SHARE * self._available:
            self._recompute(f"a step that keeps everything takes {_gibibytes(needed)} more, ")
        else:
            fitting.append(lengths)
            if self.is_on is None:
                log.info(
                    "everything is kept for the backward pass: a step takes %s besides the model, "
                    "of %s available (method.options.recompute: auto)",
                    _gibibytes(needed),
                    _gibibytes(self._available),
                )
            self.is_on = False

    def fall_back(self) -> None:
        """Recompute the blocks from now on, since a step did not fit the memory."""
        self._recompute("a step that keeps everything did not fit, ")

    def _recompute(self, reason: str) -> None:
        set_recompute(self._built.model, True)
        self._decides, self.is_on = False, True
        available = self._available
        log.info(
            "blocks are recomputed in the backward pass, with the same results: %sof %s available "
            "(method.options.recompute: auto)",
            reason,
            "an unknown memory" if available is None else _gibibytes(available),
        )

    def _memory_available(self) -> int | None:
        device = self._built.model.device
        available = memory_available(device)
        if available is None or device.type == "cuda":
            return available
        return available // self._processes

    def _needed(self, batch: Batch) -> int:
        """Estimate what a step takes besides the model if blocks keep everything.

        Short forward passes of one and of two examples, padded like the batch, give the bytes per
        example and those that every step needs. The random state stays as it was.
        """
        model, loss_average = self._built.model, self._loss_averages[batch.task]
        set_recompute(model, False)
        device = batch.prompt_ids_UT.device
        with autocast(self._recipe.training.precision, device):
            one, two = (
                saved_bytes_by_part(model, batch.unshare(rows), loss_average)[TOTAL]
                for rows in (torch.tensor([0]), torch.tensor([0, len(batch) - 1]))
            )
        examples = math.ceil(self._recipe.training.batch_size[batch.task] / self._processes)
        saved = one + max(examples, len(batch)) * (two - one)
        gradients = sum(parameter.nbytes for parameter in self._built.trainable.values())
        return math.ceil((1 + TEMPORARY_SHARE) * saved) + (1 + MOMENTS) * gradients


def _gibibytes(number: int) -> str:
    return f"{number / 2**30:.2f} GiB"
