"""A method's own initial weights: computed once, where training runs, and the same everywhere."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor

from vl_lst.methods import Method, get_method
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel
from vl_lst.training.processes import agreed

__all__ = ["initialise"]


def initialise(
    recipe: Recipe,
    built: BuiltModel,
    samples: Iterable[tuple[Tensor, Tensor]],
    accelerator: Accelerator,
) -> None:
    """Let the method initialise what it trains, before the first step of a run.

    The main process computes on the training device, and sends the weights to the others. The
    model returns to the CPU, where a backbone is quantised the same way whatever the device.

    Args:
        recipe: Names the method.
        built: The model, on the CPU and not yet quantised.
        samples: See `Method.initialise`.
        accelerator: The processes that train together, and the device.
    """
    method = get_method(recipe.method.name)
    if type(method).initialise is Method.initialise:
        return
    device = accelerator.device
    built.model.to(device)
    with agreed(accelerator):
        if accelerator.is_main_process:
            options = method.options.model_validate(dict(recipe.method.options))
            method.initialise(built.model, options, _on_device(samples, device))
    if accelerator.num_processes > 1:
        for parameter in built.trainable.values():
            broadcast(parameter.data)
    built.model.to("cpu")
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _on_device(
    samples: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> Iterable[tuple[Tensor, Tensor]]:
    return ((prompt.to(device), label.to(device)) for prompt, label in samples)
