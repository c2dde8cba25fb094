"""Small random weights, as the paper's code for language tasks draws them."""

import torch
from torch import nn

from vl_lst.models.ladder.relative_bias import RelativePositionBias
from vl_lst.models.ladder.rungs import Gates, Rungs

__all__ = ["SMALL_STD", "draw_small_weights"]

SMALL_STD = 0.01


@torch.no_grad()
def draw_small_weights(module: nn.Module) -> None:
    """Replace all weights but those of norms and gates by small random ones, and biases by zeros.

    Tables of relative positions get a standard deviation of 1, other weights one of `SMALL_STD`.

    Args:
        module: Side network, or another module, changed in place.
    """
    # Rungs last, so that a network without rungs starts with the same blocks at the same seed.
    for part in sorted(module.modules(), key=lambda part: isinstance(part, Rungs)):
        if isinstance(part, nn.RMSNorm | Gates):
            continue
        for name, parameter in part.named_parameters(recurse=False):
            if isinstance(part, RelativePositionBias):
                nn.init.normal_(parameter)
            elif name == "bias":
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=SMALL_STD)
