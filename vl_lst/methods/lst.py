"""Ladder Side-Tuning (Sung, Cho and Bansal 2022, arXiv 2206.06522)."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from vl_lst.backbones.backbone import FrozenBackbone
from vl_lst.methods import Method
from vl_lst.models.config import HeadConfig, LadderConfig, VisualConfig
from vl_lst.models.initialisation.pruning import (
    fisher_importance,
    initialise_side_network,
    magnitude_importance,
    prune_backbone,
)
from vl_lst.models.initialisation.shrinking import (
    initialise_coherently,
    principal_bases,
    selected_bases,
)
from vl_lst.models.ladder.model import LadderModel
from vl_lst.models.vision_language_model import VisionLanguageModel

__all__ = ["METHOD", "LadderOptions", "LadderSideTuning"]

Initialisation = Literal[
    "random", "magnitude", "fisher", "coherent_magnitude", "coherent_fisher", "principal"
]
COHERENT = ("coherent_magnitude", "coherent_fisher", "principal")
# What concerns more than the side network's own structure.
ELSEWHERE = {"initialisation", "initialisation_samples", "backbone_dropout"}


class LadderOptions(BaseModel):
    """Settings of the ladder; see `vl_lst.models.config.LadderConfig` for those not listed here.

    Args:
        initialisation: How the side network begins. `random`; or with side blocks cut out of the
            backbone as the paper's code does it, each weight keeping rows of its own choice, by
            the size of the weights (`magnitude`) or by how much they matter for the training texts
            (`fisher`); or with one choice for all that reads and writes a residual stream, so that
            the side network is a smaller version of the backbone: of channels by size
            (`coherent_magnitude`) or by what matters for the training texts (`coherent_fisher`),
            or of the directions in which the backbone's states vary most (`principal`).
        initialisation_samples: Training examples that `fisher`, `coherent_fisher` and `principal`
            look at.
        backbone_dropout: Probability with which the frozen backbone drops while training, as in the
            paper's code. Then its states are noisy, and equal prompts are no longer computed once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reduction: int = Field(4, ge=1, le=10_000)
    encoder_layers: tuple[int, ...] | None = None
    decoder_layers: tuple[int, ...] | None = None
    rungs: Literal["linear", "normalised", "pool"] = "normalised"
    rung_place: Literal["before_block", "after_block"] = "before_block"
    image_rungs: Literal["attenuate", "pass", "projection"] = "pass"
    gates: Literal["scalar", "channel"] = "scalar"
    gate_temperature: float = Field(0.1, gt=0, le=1e6)
    gate_start: float = Field(0.9, gt=0, lt=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    recompute: bool = True
    initialisation: Initialisation = "random"
    initialisation_samples: int = Field(1024, ge=1, le=1_000_000)
    backbone_dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _rungs_that_can_be_set(self) -> Self:
        if self.rungs != "linear" and self.initialisation in COHERENT:
            raise ValueError(
                f"rungs is {self.rungs} and initialisation is {self.initialisation}, which lets "
                "rungs select of the backbone's states as they are; expected rungs to be linear, "
                "or initialisation to be random, magnitude or fisher"
            )
        return self


class LadderSideTuning(Method):
    """The backbone stays as it is; a side network beside it trains."""

    options: type[BaseModel] = LadderOptions

    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig,
        heads: Mapping[str, HeadConfig],
    ) -> LadderModel:
        """Build the side network beside `backbone`."""
        assert isinstance(options, LadderOptions)
        backbone.train_with_dropout(options.backbone_dropout)
        settings = options.model_dump(exclude=ELSEWHERE)
        return LadderModel(backbone, visual=visual, ladder=LadderConfig(**settings), head=heads)

    def initialise(
        self,
        model: VisionLanguageModel[Any],
        options: BaseModel,
        samples: Iterable[tuple[Tensor, Tensor]],
    ) -> None:
        """Begin with the backbone's weights, if the options say so."""
        assert isinstance(options, LadderOptions)
        assert isinstance(model, LadderModel)
        kind, reduction = options.initialisation, options.reduction
        if kind == "random":
            return
        backbone = model.backbone
        state, config = backbone.model.state_dict(), backbone.config
        samples = islice(samples, options.initialisation_samples)
        if kind == "principal":
            initialise_coherently(model, principal_bases(backbone, samples, reduction))
            return
        fisher = fisher_importance(backbone, samples) if kind.endswith("fisher") else None
        importance = magnitude_importance(state) if fisher is None else fisher
        if kind in COHERENT:
            bases = selected_bases(state, importance, config, reduction)
            initialise_coherently(model, bases, fisher)
        else:
            initialise_side_network(model, prune_backbone(state, importance, config, reduction))

    def trainable(self, model: VisionLanguageModel[Any]) -> dict[str, nn.Parameter]:
        """Visual embedding, side network and head; never the backbone."""
        assert isinstance(model, LadderModel)
        return model.trainable()


METHOD = LadderSideTuning()
