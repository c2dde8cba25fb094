"""Norm of the side network: division by the root mean square, without mean and bias."""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["RootMeanSquareNorm"]


class RootMeanSquareNorm(nn.RMSNorm):
    """`nn.RMSNorm` that stays fused under autocast.

    Its weight is float32, but torch's fused kernel needs the precision of the states.
    """

    def forward(self, states: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return F.rms_norm(states, self.normalized_shape, self.weight.to(states.dtype), self.eps)
