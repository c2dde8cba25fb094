"""BitFit (Ben Zaken et al. 2021, arXiv 2106.10199): only biases train.

T5 has no biases, so the paper's code gives it some, which begin at zero: one for every linear
layer, norm and the output layer, and one for the norms of the visual embedding.
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
    """A bias is added wherever T5 lacks one, and trains."""

    def insert(self, model: JointModel, options: JointOptions) -> None:
        """Give every layer a bias of zeros."""
        for module, width in _shifted(model):
            bias = nn.Parameter(module.weight.new_zeros(width, dtype=torch.float32))
            module.register_parameter(ADDED, bias)
            # After the layer, so that a layer of another precision may keep its own.
            module.register_forward_hook(_shift)
        head = model.backbone.model.get_output_embeddings()
        zeros = head.weight.new_zeros(head.weight.shape[0], dtype=torch.float32)
        head.bias = nn.Parameter(zeros)

    def tuned(self, model: JointModel) -> Iterator[nn.Parameter]:
        """The added biases."""
        for module, _ in _shifted(model):
            yield module.get_parameter(ADDED)
        yield model.backbone.model.get_output_embeddings().bias


def _shifted(model: JointModel) -> Iterator[tuple[Any, int]]:
    """Layers that get a bias and the width of what they return, the output layer apart."""
    output_layer = model.backbone.model.get_output_embeddings()
    for module in model.backbone.modules():
        if isinstance(module, nn.Linear) and module is not output_layer:
            yield module, module.out_features
        elif isinstance(module, T5LayerNorm):
            yield module, module.weight.shape[0]
    for module in model.visual.modules():
        if isinstance(module, RootMeanSquareNorm):
            yield module, module.weight.shape[0]


def _shift(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output + module.get_parameter(ADDED).to(output.dtype)


METHOD = BitFit()
