"""Initial weights that a method computes once, on the training device, for all processes."""

from collections.abc import Iterable
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor

from vl_lst.methods import Method, get_method
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel
from vl_lst.recipes.loaded_backbone import backbone_in_memory
from vl_lst.training.failures import fail_together

__all__ = ["initialise"]


def initialise(
    recipe: Recipe,
    built: BuiltModel,
    samples: Iterable[tuple[Tensor, Tensor]],
    accelerator: Accelerator,
) -> None:
    """Let the method initialise its trainable parameters before the first step of a run.

    The first process computes them on the training device and broadcasts them. The model then
    returns to the CPU, where quantization gives the same backbone whatever the training device.

    Args:
        recipe: Recipe that names the method.
        built: The model, on the CPU and not yet quantized.
        samples: Prompt and label ids of training examples; see `Method.initialise`.
        accelerator: The processes and the device.
    """
    method = get_method(recipe.method.name)
    if type(method).initialise is Method.initialise:
        return
    device = accelerator.device
    options = method.options.model_validate(dict(recipe.method.options))
    reading = (
        backbone_in_memory(recipe, built, "initial weights are derived from it", is_quantized=False)
        if method.needs_weights_to_initialise(options)
        else nullcontext()
    )
    with reading:
        built.model.to(device)
        with fail_together(accelerator):
            if accelerator.is_main_process:
                method.initialise(built.model, options, _on_device(samples, device))
        if accelerator.num_processes > 1:
            for parameter in built.stored.values():
                broadcast(parameter.data)
        built.model.to("cpu")
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _on_device(
    samples: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> Iterable[tuple[Tensor, Tensor]]:
    return ((prompt.to(device), label.to(device)) for prompt, label in samples)
