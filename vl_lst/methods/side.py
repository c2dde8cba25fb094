"""Side-tuning: the ladder's side network without its rungs, to show what these are worth.

What it knows of the backbone is the embedding it shares and, when it writes, the output layer.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vl_lst.backbones.backbone import BackboneCache, DecoderTaps, EncoderTaps, FrozenBackbone
from vl_lst.methods.lst import LadderSideTuning
from vl_lst.models.config import HeadConfig, LadderConfig, VisualConfig
from vl_lst.models.ladder.model import LadderModel
from vl_lst.models.vision_language_model import VisionLanguageModel

__all__ = ["METHOD", "SideOptions", "SideTuning"]


class SideOptions(BaseModel):
    """Settings of the side network; see `vl_lst.models.config.LadderConfig`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reduction: int = Field(4, ge=1, le=10_000)
    encoder_layers: tuple[int, ...] | None = None
    decoder_layers: tuple[int, ...] | None = None
    dropout: float = Field(0.1, ge=0, lt=1)
    recompute: bool = True


class _UnreadBackbone(FrozenBackbone):
    """Embeds text and leaves it at that: nobody reads what the layers would make of it."""

    @torch.no_grad()
    def encode(self, ids_UT: Tensor, layers: Sequence[int]) -> EncoderTaps:
        """Embed prompts; what the blocks and the final norm would give is zero."""
        embedding_UTD, zeros_KUTD = self._embed(ids_UT, layers)
        mask_UT = ids_UT != self.pad_token_id
        return EncoderTaps(embedding_UTD, zeros_KUTD, zeros_KUTD[0], mask_UT)

    @torch.no_grad()
    def decode(
        self,
        ids_PL: Tensor,
        layers: Sequence[int],
        *,
        encoder_states_PTD: Tensor,
        encoder_mask_PT: Tensor,
        cache: BackboneCache | None = None,
    ) -> DecoderTaps:
        """Embed answers; the rest as in `encode`."""
        embedding_PLD, zeros_KPLD = self._embed(ids_PL, layers)
        return DecoderTaps(embedding_PLD, zeros_KPLD, zeros_KPLD[0])

    def _embed(self, ids_NT: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        embedding_NTD: Tensor = self.model.get_input_embeddings()(ids_NT)
        return embedding_NTD, embedding_NTD.new_zeros(()).expand(len(layers), *embedding_NTD.shape)


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
        unread = _UnreadBackbone(backbone.model)
        # Without rungs there is nothing whose scale the embeddings would have to fit.
        config = LadderConfig(**options.model_dump(), rungs="linear")
        model = LadderModel(unread, visual=visual, ladder=config, head=heads)
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
