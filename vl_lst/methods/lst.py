"""Ladder Side-Tuning (Sung, Cho and Bansal 2022, arXiv 2206.06522)."""

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from vl_lst.models.backbone import FrozenBackbone
from vl_lst.models.config import HeadConfig, LadderConfig, VisualConfig
from vl_lst.models.ladder import LadderModel

__all__ = ["METHOD", "LadderOptions", "LadderSideTuning"]


class LadderOptions(BaseModel):
    """Settings of the ladder; see `vl_lst.models.config.LadderConfig` for their meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reduction: int = Field(4, ge=1)
    encoder_layers: tuple[int, ...] | None = None
    decoder_layers: tuple[int, ...] | None = None
    gate_temperature: float = Field(0.1, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    recompute: bool = True


class LadderSideTuning:
    """The backbone stays as it is; a side network beside it trains."""

    options = LadderOptions

    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig,
        head: HeadConfig,
    ) -> LadderModel:
        """Build the side network beside `backbone`."""
        return LadderModel(
            backbone, visual=visual, ladder=LadderConfig(**options.model_dump()), head=head
        )

    def trainable(self, model: LadderModel) -> dict[str, nn.Parameter]:
        """Visual embedding, side network and head; never the backbone."""
        return model.trainable()


METHOD = LadderSideTuning()
