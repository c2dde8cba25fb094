"""How a backbone's state reaches the side network: its projection, and the gate that mixes it in.

K rungs, N rows, T text tokens, V image tokens, Q tokens of the side network, D backbone width,
R side width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Gates", "PooledRungs", "Rungs", "mix"]


class Rungs(nn.Module):
    """Learned projections of backbone states to the side width, all layers in one batched product.

    Args:
        count: K.
        width: D.
        side_width: R.
    """

    def __init__(self, count: int, width: int, side_width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(count, side_width, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, side_width).uniform_(-bound, bound))

    def forward(self, taps_KNTD: Tensor) -> Tensor:
        """Project each layer's states with its own projection: [K, N, T, D] to [K, N, T, R]."""
        count, rows, tokens, width = taps_KNTD.shape
        flat = taps_KNTD.reshape(count, rows * tokens, width).to(self.weight.dtype)
        rungs: Tensor = torch.baddbmm(self.bias[:, None], flat, self.weight.transpose(1, 2))
        return rungs.view(count, rows, tokens, -1)

    def of_each_layer(self, states_NVD: Tensor) -> Tensor:
        """Project the same states with every layer's projection: [N, V, D] to [K, N, V, R]."""
        rungs_NVX = F.linear(states_NVD, self.weight.flatten(0, 1), self.bias.flatten())
        rungs_NVKR: Tensor = rungs_NVX.unflatten(-1, self.bias.shape)
        return rungs_NVKR.permute(2, 0, 1, 3)


class PooledRungs(nn.Module):
    """Means of adjacent channels: nothing to train, so no backbone state is kept for backward.

    Args:
        count: K.
        width: D.
        side_width: R; must divide D.
    """

    def __init__(self, count: int, width: int, side_width: int) -> None:
        super().__init__()
        self.count = count
        self.group = width // side_width

    def forward(self, taps_KNTD: Tensor) -> Tensor:
        """Pool [K, N, T, D] to [K, N, T, R]."""
        groups: Tensor = taps_KNTD.unflatten(-1, (-1, self.group))
        return groups.mean(-1, dtype=torch.float32)

    def of_each_layer(self, states_NVD: Tensor) -> Tensor:
        """Pool the same states for every layer: [N, V, D] to [K, N, V, R]."""
        pooled_1NVR: Tensor = self(states_NVD[None])
        return pooled_1NVR.expand(self.count, -1, -1, -1)


class Gates(nn.Module):
    """How much of its own state the side network keeps at each layer; the rung has the rest.

    Each gate is `g = sigmoid(alpha / T)`, where T is the temperature.

    Args:
        depth: Backbone layers. Each has a gate, as in the reference; a dropped layer's is unused.
        channels: 1 for one number a layer, R for one a channel.
        temperature: T.
        start: Value of g at the beginning.
    """

    def __init__(self, depth: int, channels: int, *, temperature: float, start: float) -> None:
        super().__init__()
        self.temperature = temperature
        alpha = temperature * math.log(start / (1 - start))
        self.alpha = nn.Parameter(torch.full((depth, channels), alpha))

    def forward(self, layer: int) -> Tensor:
        """Return g, [1] or [R], of a backbone layer."""
        return torch.sigmoid(self.alpha[layer] / self.temperature)


def mix(states_BQR: Tensor, rung_BTR: Tensor, gate: Tensor, *, attenuate: bool) -> Tensor:
    """Return `g * y + (1 - g) * rung` for the first T of Q states `y` (LST, section 3.2).

    The states behind them are image tokens, of which the backbone has nothing to offer.

    Args:
        states_BQR: y, the side network's own states.
        rung_BTR: The backbone's states, projected; T <= Q.
        gate: g, the share of the side network's own states.
        attenuate: Whether the states behind meet rungs of zeros, as in the reference, and so are
            multiplied by the gate; otherwise they pass as they are.
    """
    tokens = rung_BTR.shape[1]
    if attenuate:
        rung_BTR = F.pad(rung_BTR, (0, 0, 0, states_BQR.shape[1] - tokens))
    elif tokens < states_BQR.shape[1]:
        mixed_BTR = gate * states_BQR[:, :tokens] + (1 - gate) * rung_BTR
        return torch.cat((mixed_BTR, states_BQR[:, tokens:]), 1)
    return gate * states_BQR + (1 - gate) * rung_BTR
