"""UniPT: stacks that merge the features of all layers (Diao et al. 2024, arXiv 2308.14316).

No gradient passes through the backbone.
"""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.methods._frozen_backbone import FrozenBackboneMethod
from vl_lst.models.config import HeadConfig, Recompute, VisualConfig
from vl_lst.models.unipt.model import UniPTModel, UniPTNetwork
from vl_lst.models.unipt.stacks import Form

__all__ = ["METHOD", "UniPT", "UniPTOptions"]


class UniPTOptions(BaseModel):
    """Options of UniPT.

    Args:
        reduction: Ratio of the width of the backbone's output to that of the stacks, which it must
            divide; 2 in all scripts of the paper's code.
        form: What the paper's code does with the merged features, which differs from task to task.
            `joint`, as for questions about images, projects them by two layers with a ReLU between
            them. `text`, as for the retrieval of images by texts, projects them by one layer, and
            applies a ReLU before the projection to the backbone's width.
        dropout: Dropout probability of image tokens and of the projected features.
        recompute: Save only the inputs of each layer for the backward pass and recompute the rest.
            `auto` does so where a step that keeps everything does not fit the memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reduction: int = Field(2, ge=1, le=10_000)
    form: Form = "joint"
    dropout: float = Field(0.1, ge=0, lt=1)
    recompute: Recompute = "auto"


class UniPT(FrozenBackboneMethod):
    """Trainable stacks that merge what the layers of an unchanged backbone compute."""

    options: type[BaseModel] = UniPTOptions
    reads_states_alone = True

    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig | None,
        heads: Mapping[str, HeadConfig],
    ) -> UniPTModel:
        """Build the stacks next to `backbone`."""
        assert isinstance(options, UniPTOptions)
        network = UniPTNetwork(
            backbone,
            reduction=options.reduction,
            form=options.form,
            dropout=options.dropout,
            recompute=options.recompute is not False,
        )
        return UniPTModel(backbone, visual=visual, network=network, head=heads)


METHOD = UniPT()
