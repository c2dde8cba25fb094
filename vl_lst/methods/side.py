"""Side-tuning: the ladder's side network without its rungs, to show what these are worth.

What it knows of the backbone is the embedding it shares and, when it writes, the output layer.
"""

from collections.abc import Mapping

import torch
from pydantic import BaseModel
from torch import Tensor

from vl_lst.methods.lst import LadderSideTuning
from vl_lst.models.backbone import FrozenBackbone
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.ladder import LadderModel
from vl_lst.models.side_network import Rungs

__all__ = ["METHOD", "SideTuning"]


class _NoRungs(Rungs):
    """Hands the side network zeros.

    Args:
        side_width: R.
    """

    def __init__(self, side_width: int) -> None:
        super().__init__(0, 1, 0)
        del self.weight, self.bias
        self._side_width = side_width

    def forward(self, taps_KNTD: Tensor) -> Tensor:
        """Zeros [K, N, T, R]."""
        return taps_KNTD.new_zeros(()).expand(*taps_KNTD.shape[:-1], self._side_width)


class SideTuning(LadderSideTuning):
    """A side network that sees nothing of the backbone's layers.

    Its settings are the ladder's, so that the two can be compared at equal ones; those of the gates
    mean nothing here.
    """

    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig,
        heads: Mapping[str, HeadConfig],
    ) -> LadderModel:
        """Build the side network beside `backbone` and take its rungs and gates away."""
        model = super().attach(backbone, options, visual=visual, heads=heads)
        for stack in (model.side.encoder, model.side.decoder):
            stack.rungs = _NoRungs(model.side.shape.width)
            open_gates = torch.full_like(stack.gates, torch.inf)
            del stack.gates
            # The sigmoid of infinity is one: all of the side network's own state passes.
            stack.register_buffer("gates", open_gates, persistent=False)
        return model


METHOD = SideTuning()
