"""BitFit (Ben Zaken et al. 2021, arXiv 2106.10199): only biases train.

As in the LST paper's code, this adds biases of zeros to every linear layer, every norm, the output
layer and the norms of the visual embedding. A layer that has a bias already keeps it frozen: the
sum of both is the trained bias. That of the output layer starts at the one that it has.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vl_lst.methods._joint import JointMethod, JointOptions
from vl_lst.models.joint import JointModel
from vl_lst.models.norm import RootMeanSquareNorm

__all__ = ["METHOD", "BitFit"]

ADDED = "added_bias"


class BitFit(JointMethod[JointOptions]):
    """Frozen backbone with a trainable bias in every layer."""

    def insert(self, model: JointModel, options: JointOptions) -> None:
        """Add a bias of zeros to every layer."""
        for module, width in _biased_layers(model):
            bias = nn.Parameter(module.weight.new_zeros(width, dtype=torch.float32))
            module.register_parameter(ADDED, bias)
            # Added to the output, so that the layer may have another precision.
            module.register_forward_hook(_add_bias)
        if (head := _output_layer(model)) is not None:
            bias = head.weight.new_zeros(head.weight.shape[0], dtype=torch.float32)
            head.bias = nn.Parameter(bias if head.bias is None else bias + head.bias.detach())

    def tuned(self, model: JointModel) -> Iterator[nn.Parameter]:
        """Yield the added biases."""
        for module, _ in _biased_layers(model):
            yield module.get_parameter(ADDED)
        if (head := _output_layer(model)) is not None:
            yield head.bias


def _output_layer(model: JointModel) -> Any:
    """Return the output layer; `None` without a decoder."""
    return model.backbone.model.get_output_embeddings() if model.backbone.has_decoder else None


def _biased_layers(model: JointModel) -> Iterator[tuple[Any, int]]:
    """Yield the layers that get a bias, except the output layer, and their output widths."""
    family, backbone = model.backbone.family, model.backbone.model
    for layer in family.linear_layers(backbone):
        yield layer, layer.out_features
    for norm in family.norms(backbone):
        yield norm, norm.get_parameter("weight").shape[0]
    if model.visual is not None:
        for module in model.visual.modules():
            if isinstance(module, RootMeanSquareNorm):
                yield module, module.weight.shape[0]


def _add_bias(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output + module.get_parameter(ADDED).to(output.dtype)


METHOD = BitFit()
