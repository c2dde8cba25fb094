"""Norm of the side network: division by the root mean square, without mean and bias.

N states, R width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["RootMeanSquareNorm", "divide_by_root_mean_square"]


class RootMeanSquareNorm(nn.RMSNorm):
    """`nn.RMSNorm` that also runs in few passes on a CPU and under autocast.

    torch has a fused kernel for CUDA, for a weight of the precision of the states. On a CPU it
    composes the norm of elementwise operations and saves the normalised states too.
    """

    def forward(self, states: Tensor) -> Tensor:
        """Normalise the last dimension."""
        assert self.eps is not None
        if states.device.type != "cpu":
            return F.rms_norm(states, self.normalized_shape, self.weight.to(states.dtype), self.eps)
        normed: Tensor = _RootMeanSquareNorm.apply(states, self.weight, self.eps)
        return normed


def divide_by_root_mean_square(states: Tensor, epsilon: float) -> Tensor:
    """Return states divided by the root mean square of their last dimension.

    Args:
        states: States [..., R].
        epsilon: Added to the mean square.
    """
    if states.device.type != "cpu" or states.requires_grad:
        return F.rms_norm(states, states.shape[-1:], eps=epsilon)
    return (states * _inverse_root_mean_square(states, epsilon)).to(states.dtype)


def _inverse_root_mean_square(states: Tensor, epsilon: float) -> Tensor:
    """Return `1 / sqrt(mean(states^2) + epsilon)` [..., 1], in float32 or better."""
    precise = torch.promote_types(states.dtype, torch.float32)
    # In the order of the reference, so that results are equal to the last bit.
    squares: Tensor = states.to(precise).square()
    return squares.mean(-1, keepdim=True).add_(epsilon).rsqrt_()


class _RootMeanSquareNorm(torch.autograd.Function):
    """`y = w * x / rms(x)`, of which the backward pass needs x, w and 1 / rms(x)."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight_R: Tensor, epsilon: float) -> Tensor:
        inverse = _inverse_root_mean_square(states, epsilon)
        ctx.save_for_backward(states, weight_R, inverse)
        return (states * inverse).mul_(weight_R).to(states.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        states, weight_R, inverse = ctx.saved_tensors
        # With n = x / rms(x): dw = sum of dy * n, and dx = (w * dy - n * mean(w * dy * n)) / rms(x)
        normed = states * inverse
        products_NR = (gradient * normed).flatten(0, -2)
        slope_R = products_NR.sum(0)
        means = (products_NR @ weight_R.to(products_NR.dtype)).div_(-weight_R.shape[0])
        slope = (gradient * weight_R).addcmul_(normed, means.view_as(inverse)).mul_(inverse)
        return slope.to(states.dtype), slope_R.to(weight_R.dtype), None
