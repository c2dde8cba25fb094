"""Adapters (Houlsby et al. 2019, arXiv 1902.00751): a bottleneck after every sublayer.

As in the LST paper's code, it comes before the sublayer's dropout and residual and has no norm.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from vl_lst.errors import ModelError
from vl_lst.methods._joint import JointMethod, JointOptions
from vl_lst.models.joint import JointModel

__all__ = ["METHOD", "Adapter", "AdapterOptions", "Adapters"]

NAME = "adapter"


class AdapterOptions(JointOptions):
    """Options of adapters.

    Args:
        reduction: Ratio of the backbone's width to the bottleneck's.
    """

    reduction: int = Field(4, ge=1, le=10_000)


class Adapter(nn.Module):
    """Bottleneck with a residual: `h + up(gelu(down(h)))`.

    `up` starts at zero, so the initial output is that of the backbone.

    Args:
        width: Width of the states h.
        bottleneck: Width of the bottleneck.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.activation = nn.GELU(approximate="tanh")
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Return states of the same shape and precision."""
        narrow = self.activation(self.down(states.to(self.down.weight.dtype)))
        added: Tensor = self.up(narrow).to(states.dtype)
        return states + added


class Adapters(JointMethod[AdapterOptions]):
    """Frozen backbone with small trainable networks after its sublayers."""

    options = AdapterOptions

    def insert(self, model: JointModel, options: AdapterOptions) -> None:
        """Insert an adapter after every attention and feed-forward layer."""
        for sublayer, width in model.backbone.sublayers():
            if width % options.reduction:
                raise ModelError(
                    f"the reduction {options.reduction} does not divide the backbone's width of "
                    f"{width}; choose a divisor of that width"
                )
            sublayer.add_module(NAME, Adapter(width, width // options.reduction))
            sublayer.register_forward_hook(_adapt)

    def tuned(self, model: JointModel) -> Iterator[nn.Parameter]:
        """Yield the parameters of the adapters."""
        for sublayer, _ in model.backbone.sublayers():
            yield from sublayer.get_submodule(NAME).parameters()


def _adapt(sublayer: nn.Module, _inputs: Any, output: Any) -> Any:
    adapter = sublayer.get_submodule(NAME)
    if isinstance(output, tuple):  # an attention returns its states first
        return adapter(output[0]), *output[1:]
    return adapter(output)


METHOD = Adapters()
