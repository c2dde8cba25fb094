"""SHERL: early features are mixed, and a frozen last block reads the mixture (arXiv 2407.07523)."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.methods._frozen_backbone import FrozenBackboneMethod
from vl_lst.models.config import HeadConfig, Layers, Recompute, VisualConfig
from vl_lst.models.sherl.model import SherlModel

__all__ = ["METHOD", "Sherl", "SherlOptions"]


class SherlOptions(BaseModel):
    """Options of SHERL.

    Args:
        reduction: Ratio of a stack's width to that of the codes of its features; must divide it.
        encoder_layers: Encoder layers that are read besides the embedding, ascending and counted
            from 0; `None` means all.
        decoder_layers: Decoder layers that are read, likewise. As in the paper's code, the last is
            left out, since it reads the mixture; in a backbone without a decoder, this holds for
            `encoder_layers`.
        score_bias: Initial bias of the scores that weigh the features, before a ReLU. At 0, as in
            the paper's code, an unlucky draw lets no score pass for any token, and the weights of
            the scores may then never learn. A small positive number lets all pass at first.
        dropout: Dropout probability for embeddings that are read and for final states.
        backbone_dropout: Dropout probability in the frozen backbone while training, as in the
            paper's code. Above 0, its states are noisy and equal prompts are computed separately.
        recompute: Save only what the mixtures and the last block read for the backward pass, and
            recompute the rest. `auto` does so where a step that keeps everything does not fit the
            memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reduction: int = Field(8, ge=1, le=10_000)
    encoder_layers: Layers = None
    decoder_layers: Layers = None
    score_bias: float = Field(0.0, ge=-1, le=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    backbone_dropout: float = Field(0.0, ge=0, lt=1)
    recompute: Recompute = "auto"


class Sherl(FrozenBackboneMethod):
    """Mixtures of the frozen backbone's states, one of which passes its last block."""

    options: type[BaseModel] = SherlOptions

    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig | None,
        heads: Mapping[str, HeadConfig],
    ) -> SherlModel:
        """Build the mixtures next to `backbone`."""
        assert isinstance(options, SherlOptions)
        backbone.enable_dropout(options.backbone_dropout)
        return SherlModel(
            backbone,
            visual=visual,
            head=heads,
            reduction=options.reduction,
            encoder_layers=options.encoder_layers,
            decoder_layers=options.decoder_layers,
            score_bias=options.score_bias,
            dropout=options.dropout,
            recompute=options.recompute is not False,
        )


METHOD = Sherl()
