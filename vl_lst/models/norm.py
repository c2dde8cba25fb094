"""T5's norm: scale by the root mean square, no mean, no bias."""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["RootMeanSquareNorm"]


class RootMeanSquareNorm(nn.RMSNorm):
    """`nn.RMSNorm` that stays fused under autocast.

    The weight is kept in float32; torch's fused kernel wants it in the states' own precision.
    """

    def forward(self, states: Tensor) -> Tensor:
        """Norm the last dimension."""
        return F.rms_norm(states, self.normalized_shape, self.weight.to(states.dtype), self.eps)
