"""Ladder Side-Tuning (Sung, Cho and Bansal 2022, arXiv 2206.06522)."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vl_lst.methods import Method
from vl_lst.models.backbone import FrozenBackbone
from vl_lst.models.config import HeadConfig, LadderConfig, VisualConfig
from vl_lst.models.ladder import LadderModel
from vl_lst.models.pruning import (
    fisher_importance,
    initialise_side_network,
    magnitude_importance,
    prune_backbone,
)
from vl_lst.models.vision_language_model import VisionLanguageModel

__all__ = ["METHOD", "LadderOptions", "LadderSideTuning"]


class LadderOptions(BaseModel):
    """Settings of the ladder; see `vl_lst.models.config.LadderConfig` for those not listed here.

    Args:
        initialisation: How the side blocks begin: `random`, or cut out of the backbone by the
            size of its weights (`magnitude`) or by how much they matter for the training texts
            (`fisher`, as in the paper).
        fisher_samples: Training examples the latter is measured on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reduction: int = Field(4, ge=1)
    encoder_layers: tuple[int, ...] | None = None
    decoder_layers: tuple[int, ...] | None = None
    gate_temperature: float = Field(0.1, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    recompute: bool = True
    initialisation: Literal["random", "magnitude", "fisher"] = "random"
    fisher_samples: int = Field(1024, ge=1)


class LadderSideTuning(Method):
    """The backbone stays as it is; a side network beside it trains."""

    options = LadderOptions

    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig,
        heads: Mapping[str, HeadConfig],
    ) -> LadderModel:
        """Build the side network beside `backbone`."""
        settings = options.model_dump(exclude={"initialisation", "fisher_samples"})
        return LadderModel(backbone, visual=visual, ladder=LadderConfig(**settings), head=heads)

    def initialise(
        self,
        model: VisionLanguageModel[Any],
        options: BaseModel,
        samples: Iterable[tuple[Tensor, Tensor]],
    ) -> None:
        """Cut the side blocks out of the backbone, if the options say so."""
        assert isinstance(options, LadderOptions)
        assert isinstance(model, LadderModel)
        if options.initialisation == "random":
            return
        backbone = model.backbone
        state = backbone.model.state_dict()
        if options.initialisation == "magnitude":
            importance = magnitude_importance(state)
        else:
            importance = fisher_importance(backbone, islice(samples, options.fisher_samples))
        pruned = prune_backbone(state, importance, backbone.config, options.reduction)
        initialise_side_network(model, pruned)

    def trainable(self, model: VisionLanguageModel[Any]) -> dict[str, nn.Parameter]:
        """Visual embedding, side network and head; never the backbone."""
        assert isinstance(model, LadderModel)
        return model.trainable()


METHOD = LadderSideTuning()
