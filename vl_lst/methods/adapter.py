"""Adapters (Houlsby et al. 2019, arXiv 1902.00751): a bottleneck after every sublayer.

As in the LST paper's code, it comes before the sublayer's dropout and residual and has no norm.
"""

from collections.abc import Iterator
from typing import Literal, get_args

from pydantic import Field
from torch import Tensor, nn

from vl_lst.backbones.backbone import SublayerKind
from vl_lst.errors import ModelError
from vl_lst.methods._joint import JointMethod, JointOptions, train_modules
from vl_lst.models.initialisation.small_weights import draw_small_weights
from vl_lst.models.joint import JointModel
from vl_lst.models.output_adapter import adapt_output

__all__ = ["METHOD", "Adapter", "AdapterOptions", "Adapters"]


class AdapterOptions(JointOptions):
    """Options of adapters.

    Args:
        reduction: Ratio of the backbone's width to the bottleneck's.
        places: Sublayers that get an adapter. The paper's code for language tasks leaves out
            cross-attention.
        train_norms: Whether the backbone's norms train too, as in the paper's code for language
            tasks.
        initialisation: Initial weights. `identity` starts with the backbone's own output. `small`
            draws all weights with a standard deviation of 0.01, as in the paper's code for language
            tasks.
    """

    reduction: int = Field(4, ge=1, le=10_000)
    places: tuple[SublayerKind, ...] = Field(get_args(SublayerKind), min_length=1)
    train_norms: bool = False
    initialisation: Literal["identity", "small"] = "identity"


class Adapter(nn.Module):
    """Bottleneck with a residual: `h + up(gelu(down(h)))`.

    `up` starts at zero, so the initial output is h.

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
        """Insert an adapter after every sublayer of the chosen kinds."""
        chosen = [each for each in model.backbone.sublayers() if each.kind in options.places]
        if not chosen:
            raise ModelError(
                f"places is {', '.join(options.places)}, which a backbone of type "
                f"{model.backbone.model_type} lacks: expected self_attention or feed_forward"
            )
        for sublayer in chosen:
            width = sublayer.width
            if width % options.reduction:
                raise ModelError(
                    f"the reduction {options.reduction} does not divide the backbone's width of "
                    f"{width}; choose a divisor of that width"
                )
            adapter = Adapter(width, width // options.reduction)
            if options.initialisation == "small":
                draw_small_weights(adapter)
            adapt_output(sublayer.module, adapter, "adapter")
        if options.train_norms:
            train_modules(model, model.backbone.family.norms(model.backbone.model))

    def tuned(self, model: JointModel) -> Iterator[nn.Parameter]:
        """Yield the parameters of the adapters."""
        for module in model.backbone.modules():
            if isinstance(module, Adapter):
                yield from module.parameters()


METHOD = Adapters()
