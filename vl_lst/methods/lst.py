"""Ladder Side-Tuning (Sung, Cho and Bansal 2022, arXiv 2206.06522)."""

from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.errors import ModelError
from vl_lst.methods._frozen_backbone import FrozenBackboneMethod
from vl_lst.methods._random_start import RandomStart, draw_weights
from vl_lst.models.config import HeadConfig, LadderConfig, LadderSettings, VisualConfig
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
from vl_lst.models.ladder.rungs import Gates, Rungs, StackSizes, build_rungs
from vl_lst.models.vision_language_model import VisionLanguageModel

__all__ = ["METHOD", "LadderOptions", "LadderSideTuning"]

Initialisation = Literal[
    "random", "magnitude", "fisher", "coherent_magnitude", "coherent_fisher", "principal"
]
FROM_WEIGHTS = ("magnitude", "coherent_magnitude")
COHERENT = ("coherent_magnitude", "coherent_fisher", "principal")


class LadderOptions(LadderSettings, RandomStart):
    """Options of Ladder Side-Tuning; the others are in `LadderSettings` and `RandomStart`.

    Args:
        initialisation: Initial weights of the side network. `random` draws them. The others derive
            them from the backbone. As in the paper's code, `magnitude` and `fisher` let each weight
            of a side block keep its own choice of channels, by the size of the backbone's weights
            or by their Fisher information on training texts. The rest make one choice per residual
            stream, so that the side network is a smaller version of the backbone: its channels by
            size (`coherent_magnitude`) or by Fisher information (`coherent_fisher`), or the
            directions in which the backbone's states vary most (`principal`).
        initialisation_samples: Number of training examples for `fisher`, `coherent_fisher` and
            `principal`.
        backbone_dropout: Dropout probability in the frozen backbone while training, as in the
            paper's code. Above 0, its states are noisy and equal prompts are computed separately.
    """

    initialisation: Initialisation = "random"
    initialisation_samples: int = Field(1024, ge=1, le=1_000_000)
    backbone_dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _require_linear_rungs(self) -> Self:
        if self.rungs != "linear" and self.initialisation in COHERENT:
            raise ValueError(
                f"rungs is {self.rungs} and initialisation is {self.initialisation}, which needs "
                "rungs that read the backbone's states unchanged; expected rungs to be linear, "
                "or initialisation to be random, magnitude or fisher"
            )
        return self


class LadderSideTuning(FrozenBackboneMethod):
    """Trainable side network next to an unchanged backbone."""

    options: type[BaseModel] = LadderOptions
    reads_states_alone = True

    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig | None,
        heads: Mapping[str, HeadConfig],
    ) -> LadderModel:
        """Build the side network next to `backbone`."""
        assert isinstance(options, LadderOptions)
        options = options.for_visual(visual)
        backbone.enable_dropout(options.backbone_dropout)
        model = LadderModel(
            backbone,
            visual=visual,
            ladder=LadderConfig(**options.model_dump(include=set(LadderConfig.model_fields))),
            head=heads,
            build_rungs=partial(self.build_rungs, options=options),
        )
        draw_weights(model, options)
        return model

    def build_rungs(self, sizes: StackSizes, options: LadderSettings) -> tuple[Rungs, Gates]:
        """Build the rungs and gates of one stack; variants of the ladder override this."""
        return build_rungs(sizes, options)

    def needs_weights_to_initialise(self, options: BaseModel) -> bool:
        """Return whether initial weights are derived from the backbone."""
        assert isinstance(options, LadderOptions)
        return options.initialisation != "random"

    def initialise(
        self,
        model: VisionLanguageModel[Any],
        options: BaseModel,
        samples: Iterable[tuple[Tensor, Tensor]],
    ) -> None:
        """Derive initial weights from the backbone, unless `initialisation` is `random`.

        Raises:
            ModelError: The backbone's blocks differ from those of the side network, or the
                initialisation reads texts and the backbone reads images.
        """
        assert isinstance(options, LadderOptions)
        assert isinstance(model, LadderModel)
        kind, reduction = options.initialisation, options.reduction
        if kind == "random":
            return
        backbone = model.backbone
        if not backbone.family.matches_side_blocks:
            raise ModelError(
                f"initialisation is {kind}, which copies weights of the backbone into the side "
                f"network, and the blocks of a backbone of type {backbone.model_type} are built "
                "otherwise: expected random"
            )
        if not backbone.family.has_shared_positions(backbone.config):
            raise ModelError(
                f"initialisation is {kind}, which copies the one table of relative positions of a "
                f"stack, and each block of a backbone of type {backbone.model_type} has its own: "
                "expected random"
            )
        if model.backbone_reads_images and kind not in FROM_WEIGHTS:
            raise ModelError(
                f"initialisation is {kind}, which reads texts with the backbone, and this backbone "
                f"reads images too: expected random, {' or '.join(FROM_WEIGHTS)}"
            )
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


METHOD = LadderSideTuning()
