"""Side-tuning: the ladder's side network without its rungs, to show what these are worth.

What it knows of the backbone is the embedding it shares and, when it writes, the output layer.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vl_lst.methods.lst import LadderSideTuning
from vl_lst.models.backbone import FrozenBackbone
from vl_lst.models.config import HeadConfig, LadderConfig, VisualConfig
from vl_lst.models.ladder import LadderModel
from vl_lst.models.vision_language_model import VisionLanguageModel

__all__ = ["METHOD", "SideOptions", "SideTuning"]


class SideOptions(BaseModel):
    """Settings of the side network; see `vl_lst.models.config.LadderConfig`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reduction: int = Field(4, ge=1)
    encoder_layers: tuple[int, ...] | None = None
    decoder_layers: tuple[int, ...] | None = None
    dropout: float = Field(0.1, ge=0, lt=1)
    recompute: bool = True


class _NoRungs(nn.Module):
    """Hands the side network zeros.

    Args:
        side_width: R.
    """

    def __init__(self, side_width: int) -> None:
        super().__init__()
        self._side_width = side_width

    def forward(self, taps_KNTD: Tensor) -> Tensor:
        """Zeros [K, N, T, R]."""
        return taps_KNTD.new_zeros(()).expand(*taps_KNTD.shape[:-1], self._side_width)


class _OpenGates(nn.Module):
    """Lets all of the side network's own state pass."""

    def forward(self, layer: int) -> Tensor:
        """Gate of any layer, one number."""
        return torch.ones(())


class SideTuning(LadderSideTuning):
    """A side network that sees nothing of the backbone's layers."""

    options: type[BaseModel] = SideOptions

    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig,
        heads: Mapping[str, HeadConfig],
    ) -> LadderModel:
        """Build the side network beside `backbone` and take its rungs and gates away."""
        config = LadderConfig(**options.model_dump())
        model = LadderModel(backbone, visual=visual, ladder=config, head=heads)
        for stack in (model.side.encoder, model.side.decoder):
            stack.add_module("rungs", _NoRungs(model.side.shape.width))
            stack.add_module("gates", _OpenGates())
        return model

    def initialise(
        self,
        model: VisionLanguageModel[Any],
        options: BaseModel,
        samples: Iterable[tuple[Tensor, Tensor]],
    ) -> None:
        """Do nothing: without rungs there is no basis to share with the backbone."""


METHOD = SideTuning()
