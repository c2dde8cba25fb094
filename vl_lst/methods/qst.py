"""Quantized Side Tuning (Zhang et al. 2024, arXiv 2401.07159).

A ladder whose rungs are of low rank and normed, whose gates have one number per channel, and whose
final states are mixed with those of the backbone, so that heads read states of its width.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Literal

from pydantic import BaseModel, Field

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.methods._frozen_backbone import FrozenBackboneMethod
from vl_lst.models.config import HeadConfig, LadderConfig, SideSettings, VisualConfig
from vl_lst.models.ladder.model import LadderModel
from vl_lst.models.ladder.rungs import Gates, LearnedGates, LowRankRungs, Rungs, StackSizes

__all__ = ["METHOD", "QuantizedSideOptions", "QuantizedSideTuning"]


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


# Initial shares of the side network's states; the code's numbers are 0.5 and, of the backbone, 1.
GATE_START = _sigmoid(0.5)
LAST_GATE_STARTS = {"sigmoid": _sigmoid(-1.0), "unbounded": 0.0}


class QuantizedSideOptions(SideSettings):
    """Options of Quantized Side Tuning; those not listed here are in `SideSettings`.

    Args:
        rank: Rank of the rungs (`p`); 16 in all scripts of the paper's code.
        last_gate: How the final states are mixed, per channel. `sigmoid`, as in the paper's code,
            starts with 73 % of the backbone's state, and every weight learns from the first step.
            `unbounded` is a plain number, as in the paper's text. It starts with 100 %, so that
            training starts at the backbone's output and only these numbers learn in the first step.
    """

    rank: int = Field(16, ge=1, le=10_000)
    last_gate: Literal["sigmoid", "unbounded"] = "sigmoid"


class QuantizedSideTuning(FrozenBackboneMethod):
    """Trainable side network whose output is added to that of the frozen backbone."""

    options: type[BaseModel] = QuantizedSideOptions
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
        assert isinstance(options, QuantizedSideOptions)
        return LadderModel(
            backbone,
            visual=visual,
            # The rungs have norms of their own.
            ladder=LadderConfig(
                **options.model_dump(include=set(SideSettings.model_fields)), rungs="linear"
            ),
            head=heads,
            build_rungs=partial(self.build_rungs, options=options),
            last_gate=LearnedGates(
                1,
                backbone.output_width,
                temperature=1.0,
                start=LAST_GATE_STARTS[options.last_gate],
                attenuate=False,
                bounded=options.last_gate == "sigmoid",
            ),
        )

    def build_rungs(self, sizes: StackSizes, options: QuantizedSideOptions) -> tuple[Rungs, Gates]:
        """Build the rungs and gates of one stack."""
        gates = LearnedGates(
            sizes.depth, sizes.side_width, temperature=1.0, start=GATE_START, attenuate=False
        )
        return LowRankRungs(sizes, options.rank), gates


METHOD = QuantizedSideTuning()
