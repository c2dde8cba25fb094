"""BitFit (Ben Zaken et al. 2021, arXiv 2106.10199): only biases train.

T5 has no biases, so as in the paper's code, this adds biases of zeros to every linear layer, every
norm, the output layer and the norms of the visual embedding.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5LayerNorm

from vl_lst.methods._joint import JointMethod, JointOptions
from vl_lst.models.joint import JointModel
from vl_lst.models.norm import RootMeanSquareNorm

__all__ = ["METHOD", "BitFit"]

ADDED = "added_bias"


class BitFit(JointMethod[JointOptions]):
    """Frozen backbone with a trainable bias wherever T5 lacks one."""

    def insert(self, model: JointModel, options: JointOptions) -> None:
        """Add a bias of zeros to every layer."""
        for module, width in _biased_layers(model):
            bias = nn.Parameter(module.weight.new_zeros(width, dtype=torch.float32))
            module.register_parameter(ADDED, bias)
            # Added to the output, so that the layer may have another precision.
            module.register_forward_hook(_add_bias)
        head = model.backbone.model.get_output_embeddings()
        zeros = head.weight.new_zeros(head.weight.shape[0], dtype=torch.float32)
        head.bias = nn.Parameter(zeros)

    def tuned(self, model: JointModel) -> Iterator[nn.Parameter]:
        """Yield the added biases."""
        for module, _ in _biased_layers(model):
            yield module.get_parameter(ADDED)
        yield model.backbone.model.get_output_embeddings().bias


def _biased_layers(model: JointModel) -> Iterator[tuple[Any, int]]:
    """Yield the layers that get a bias, except the output layer, and their output widths."""
    output_layer = model.backbone.model.get_output_embeddings()
    for module in model.backbone.modules():
        if isinstance(module, nn.Linear) and module is not output_layer:
            yield module, module.out_features
        elif isinstance(module, T5LayerNorm):
            yield module, module.weight.shape[0]
    for module in model.visual.modules():
        if isinstance(module, RootMeanSquareNorm):
            yield module, module.weight.shape[0]


def _add_bias(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output + module.get_parameter(ADDED).to(output.dtype)


METHOD = BitFit()
