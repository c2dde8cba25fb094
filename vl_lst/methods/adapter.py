"""Adapters (Houlsby et al. 2019, arXiv 1902.00751): a bottleneck after every sublayer.

Between a sublayer and its dropout and residual, without a norm, as in the paper's code.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import Field
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import (
    T5Attention,
    T5DenseActDense,
    T5DenseGatedActDense,
)

from vl_lst.errors import ModelError
from vl_lst.methods._joint import JointMethod, JointOptions
from vl_lst.models.joint import JointModel

__all__ = ["METHOD", "Adapter", "AdapterOptions", "Adapters"]

NAME = "adapter"
SUBLAYERS = (T5Attention, T5DenseActDense, T5DenseGatedActDense)


class AdapterOptions(JointOptions):
    """Settings of adapters.

    Args:
        reduction: The bottleneck is this many times narrower than the backbone.
    """

    reduction: int = Field(4, ge=1, le=10_000)


class Adapter(nn.Module):
    """The bottleneck `h + up(gelu(down(h)))` around states h.

    The way up begins at zero, so that the backbone is undisturbed at the start.

    Args:
        width: Of the states.
        bottleneck: Width in between.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.activation = nn.GELU(approximate="tanh")
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: Tensor) -> Tensor:
        """States of the same shape."""
        narrow = self.activation(self.down(states.to(self.down.weight.dtype)))
        added: Tensor = self.up(narrow).to(states.dtype)
        return states + added


class Adapters(JointMethod[AdapterOptions]):
    """Small networks are put between the backbone's sublayers, and train."""

    options = AdapterOptions

    def insert(self, model: JointModel, options: AdapterOptions) -> None:
        """Put an adapter behind every attention and feed-forward layer."""
        width = model.backbone.width
        if width % options.reduction:
            raise ModelError(
                f"the reduction {options.reduction} does not divide the backbone's width of "
                f"{width}; choose a divisor of it"
            )
        for sublayer in _sublayers(model):
            sublayer.add_module(NAME, Adapter(width, width // options.reduction))
            sublayer.register_forward_hook(_adapt)

    def tuned(self, model: JointModel) -> Iterator[nn.Parameter]:
        """The adapters."""
        for sublayer in _sublayers(model):
            yield from sublayer.get_submodule(NAME).parameters()


def _sublayers(model: JointModel) -> list[nn.Module]:
    return [module for module in model.backbone.modules() if isinstance(module, SUBLAYERS)]


def _adapt(sublayer: nn.Module, _inputs: Any, output: Any) -> Any:
    adapter = sublayer.get_submodule(NAME)
    if isinstance(output, tuple):  # an attention returns more than its states
        return adapter(output[0]), *output[1:]
    return adapter(output)


METHOD = Adapters()
