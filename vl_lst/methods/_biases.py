"""Trainable biases, added to the layers of a backbone."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vl_lst.models.joint import JointModel
from vl_lst.models.norm import RootMeanSquareNorm

__all__ = ["add_biases", "added_biases", "biased_layers"]

ADDED = "added_bias"


def biased_layers(model: JointModel, *, final_norms: bool) -> dict[str, int]:
    """Return the names of the layers that get a bias, but the output layer, and their widths.

    These are linear layers and norms, also those of the visual embedding.

    Args:
        model: Model to which nothing has been added yet.
        final_norms: Whether the norms after the last block of a stack are among them.
    """
    family, backbone = model.backbone.family, model.backbone.model
    left_out = set() if final_norms else set(family.final_norms(backbone))
    widths: dict[nn.Module, int] = {
        layer: layer.out_features for layer in family.linear_layers(backbone)
    }
    norms = [norm for norm in family.norms(backbone) if norm not in left_out]
    if model.visual is not None:
        norms += [m for m in model.visual.modules() if isinstance(m, RootMeanSquareNorm)]
    widths |= {norm: norm.get_parameter("weight").shape[0] for norm in norms}
    return {name: widths[module] for name, module in model.named_modules() if module in widths}


def add_biases(model: JointModel, layers: dict[str, int]) -> None:
    """Add a bias of zeros to each layer, and a bias to the output layer.

    A layer that has a bias already keeps it frozen: the sum of both is the trained bias. That of
    the output layer starts at the one that it has.

    Args:
        model: Model with the layers.
        layers: Output of `biased_layers`; layers of these names may have been wrapped since.
    """
    for name, width in layers.items():
        module: Any = model.get_submodule(name)
        # Not `new_zeros`, which would quantize them like the weight.
        bias = torch.zeros(width, dtype=torch.float32, device=module.weight.device)
        module.register_parameter(ADDED, nn.Parameter(bias))
        # Added to the output, so that the layer may have another precision.
        module.register_forward_hook(_add_bias)
    if (head := _output_layer(model)) is not None:
        bias = head.weight.new_zeros(head.weight.shape[0], dtype=torch.float32)
        head.bias = nn.Parameter(bias if head.bias is None else bias + head.bias.detach())


def added_biases(model: JointModel) -> Iterator[nn.Parameter]:
    """Yield the biases that `add_biases` has added; without a call of it, none."""
    found = False
    for module in model.modules():
        if isinstance(bias := module._parameters.get(ADDED), nn.Parameter):
            found = True
            yield bias
    if found and (head := _output_layer(model)) is not None:
        yield head.bias


def _output_layer(model: JointModel) -> Any:
    """Return the output layer; `None` without a decoder."""
    return model.backbone.model.get_output_embeddings() if model.backbone.has_decoder else None


def _add_bias(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output + module.get_parameter(ADDED).to(output.dtype)
