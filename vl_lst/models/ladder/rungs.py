"""Rungs and gates: how backbone states enter the side network.

K layers with a rung, N unique texts, B examples, T text tokens, V image tokens, Q tokens of the
side network, X rung width, P rank of a rung, D backbone width, R side width.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vl_lst.models.config import LadderSettings
from vl_lst.models.ladder.fused import mix

__all__ = [
    "Gates",
    "LearnedGates",
    "LinearRungs",
    "LowRankRungs",
    "PooledRungs",
    "RungBuilder",
    "Rungs",
    "StackSizes",
    "build_rungs",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSizes:
    """Sizes of one stack, for which its rungs and gates are built.

    Args:
        layers: Backbone layers that have a side block; K of them, ascending and counted from 0.
        depth: Number of layers of the backbone's stack.
        width: D.
        side_width: R.
    """

    layers: tuple[int, ...]
    depth: int
    width: int
    side_width: int


class Rungs(nn.Module, ABC):
    """Projection of the backbone's states, for all layers of a stack in one call.

    Called once per forward pass on the unique texts of a batch, so rungs cannot see the side
    network's states; gates can.
    """

    projects_embeddings: ClassVar[bool] = False
    """Whether the rung of the first layer also projects what enters the first side block.

    `forward` is then called with these states alone, too: [1, N, T, D]. Otherwise, the side network
    has a linear projection for them.
    """

    @abstractmethod
    def forward(self, taps_KNTD: Tensor) -> Tensor:
        """Project each layer's states: [K, N, T, D] to [K, N, T, X]."""

    def project_image(self, tokens_NVD: Tensor, layers: int) -> Tensor:
        """Project image tokens with the rung of every layer: [N, V, D] to [K, N, V, X].

        Called only with `image_rungs="projection"`.

        Args:
            tokens_NVD: Image tokens.
            layers: K.
        """
        rungs_KNVX: Tensor = self(tokens_NVD.expand(layers, -1, -1, -1))
        return rungs_KNVX


class Gates(nn.Module, ABC):
    """Mixture of a rung with the side network's states, one layer per call."""

    @abstractmethod
    def forward(self, layer: int, rung_BTX: Tensor, states_BQR: Tensor) -> Tensor:
        """Return the mixed states [B, Q, R].

        Args:
            layer: Number of the backbone layer, from 0.
            rung_BTX: Output of `Rungs` for that layer, one row per example. T <= Q: the rung is for
                the first T states, which are those of text tokens. Image tokens follow; they have
                rungs only with `image_rungs="projection"`.
            states_BQR: The side network's own states.
        """


RungBuilder: TypeAlias = Callable[[StackSizes], tuple[Rungs, Gates]]


class LinearRungs(Rungs):
    """Learned projections to the side width, all layers in one batched product (X = R).

    Args:
        sizes: Sizes of the stack.
    """

    def __init__(self, sizes: StackSizes) -> None:
        super().__init__()
        count, width, side_width = len(sizes.layers), sizes.width, sizes.side_width
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(count, side_width, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, side_width).uniform_(-bound, bound))

    def forward(self, taps_KNTD: Tensor) -> Tensor:
        """Project each layer's states with its own weights: [K, N, T, D] to [K, N, T, R]."""
        count, rows, tokens, width = taps_KNTD.shape
        flat = taps_KNTD.reshape(count, rows * tokens, width).to(self.weight.dtype)
        rungs: Tensor = torch.baddbmm(self.bias[:, None], flat, self.weight.transpose(1, 2))
        return rungs.view(count, rows, tokens, -1)

    def project_image(self, tokens_NVD: Tensor, layers: int) -> Tensor:
        """Project image tokens with every layer's weights: [N, V, D] to [K, N, V, R]."""
        rungs_NVX = F.linear(tokens_NVD, self.weight.flatten(0, 1), self.bias.flatten())
        rungs_NVKR: Tensor = rungs_NVX.unflatten(-1, self.bias.shape)
        return rungs_NVKR.permute(2, 0, 1, 3)


class LowRankRungs(Rungs):
    """Learned projections of low rank, each followed by a norm (X = R).

    These are the down-samplers of Quantized Side Tuning (arXiv 2401.07159):
    `D(x) = LN(B silu(A x))`. That of the first layer also projects the embeddings.

    Args:
        sizes: Sizes of the stack.
        rank: P.
    """

    projects_embeddings = True

    def __init__(self, sizes: StackSizes, rank: int) -> None:
        super().__init__()
        count, width, side_width = len(sizes.layers), sizes.width, sizes.side_width
        self.down = _uniform(count, rank, width)
        self.up = _uniform(count, side_width, rank)
        self.norms = nn.ModuleList(nn.LayerNorm(side_width) for _ in range(count))

    def forward(self, taps_KNTD: Tensor) -> Tensor:
        """Project the states of the first layers, or of all: [K, N, T, D] to [K, N, T, R]."""
        count, rows, tokens, width = taps_KNTD.shape
        flat = taps_KNTD.reshape(count, rows * tokens, width).to(self.down.dtype)
        low = F.silu(torch.bmm(flat, self.down[:count].transpose(1, 2)))
        rungs = torch.bmm(low, self.up[:count].transpose(1, 2)).view(count, rows, tokens, -1)
        # Each norm saves its input alone; one norm of all layers would save its output as well.
        normed = [norm(rung) for norm, rung in zip(self.norms, rungs, strict=False)]
        return torch.stack(normed)


def _uniform(count: int, rows: int, columns: int) -> nn.Parameter:
    """Return matrices [count, rows, columns] as `nn.Linear` draws its weight."""
    bound = columns**-0.5
    return nn.Parameter(torch.empty(count, rows, columns).uniform_(-bound, bound))


class PooledRungs(Rungs):
    """Means of adjacent channels (X = R): nothing trains, no state is saved for the backward pass.

    Args:
        sizes: Sizes of the stack; R must divide D.
    """

    def __init__(self, sizes: StackSizes) -> None:
        super().__init__()
        self.group = sizes.width // sizes.side_width

    def forward(self, taps_KNTD: Tensor) -> Tensor:
        """Pool [K, N, T, D] to [K, N, T, R]."""
        groups: Tensor = taps_KNTD.unflatten(-1, (-1, self.group))
        return groups.mean(-1, dtype=torch.float32)

    def project_image(self, tokens_NVD: Tensor, layers: int) -> Tensor:
        """Pool image tokens once for all layers: [N, V, D] to [K, N, V, R]."""
        pooled_1NVR: Tensor = self(tokens_NVD[None])
        return pooled_1NVR.expand(layers, -1, -1, -1)


class LearnedGates(Gates):
    """One gate `g = sigmoid(alpha / T)` per layer, where T is the temperature (LST, section 3.2).

    Args:
        depth: Number of backbone layers. Each has a gate, as in the reference; the gates of layers
            without a side block are unused.
        channels: 1 for one number per layer, R for one per channel.
        temperature: T.
        start: Initial value of g.
        attenuate: Whether to multiply image tokens without a rung by the gate, as in the
            reference, where their rungs are zeros; otherwise they pass unchanged.
        bounded: Whether g is that sigmoid. Otherwise it is `alpha / T`, a number that may start at
            0 or 1 and leave the range between.
    """

    def __init__(
        self,
        depth: int,
        channels: int,
        *,
        temperature: float,
        start: float,
        attenuate: bool,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.attenuate = attenuate
        self.bounded = bounded
        alpha = temperature * (math.log(start / (1 - start)) if bounded else start)
        self.alpha = nn.Parameter(torch.full((depth, channels), alpha))

    def value(self, layer: int) -> Tensor:
        """Return g of a backbone layer: [1] or [R]."""
        scaled = self.alpha[layer] / self.temperature
        return torch.sigmoid(scaled) if self.bounded else scaled

    def forward(self, layer: int, rung_BTX: Tensor, states_BQR: Tensor) -> Tensor:
        """Return `g * states + (1 - g) * rung`."""
        return mix(self.value(layer), states_BQR, rung_BTX, attenuate=self.attenuate)


def build_rungs(sizes: StackSizes, settings: LadderSettings) -> tuple[Rungs, Gates]:
    """Build the rungs and gates that the ladder's settings describe."""
    assert settings.gate_start is not None, "resolved by LadderSettings.for_visual"
    rungs = (PooledRungs if settings.rungs == "pool" else LinearRungs)(sizes)
    gates = LearnedGates(
        sizes.depth,
        sizes.side_width if settings.gates == "channel" else 1,
        temperature=settings.gate_temperature,
        start=settings.gate_start,
        attenuate=settings.image_rungs == "attenuate",
    )
    return rungs, gates
