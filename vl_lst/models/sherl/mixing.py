"""SHERL's mixture of a stack's features (arXiv 2407.07523), each token by itself.

N rows, T tokens, M = N * T, K features, J = K - 1 features that are blocks' outputs, or that are
not the deepest, H hidden width, D width of the stack, I and O widths of a linear layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vl_lst.models.initialisation.small_weights import SMALL_STD

__all__ = ["FeatureMixture"]

EPSILON = 1e-6
# The gate is tanh(gate / temperature).
GATE_TEMPERATURE = 0.1


class FeatureLinear(nn.Module):
    """One linear layer for each feature, all in one batched product.

    Args:
        features: K.
        width: I.
        output_width: O.
    """

    def __init__(self, features: int, width: int, output_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, output_width, width) * SMALL_STD)
        self.bias = nn.Parameter(torch.zeros(features, output_width))

    def forward(self, *parts: Tensor) -> Tensor:
        """Return [K, M, O].

        Args:
            parts: Features [K, M, I], or the first and the others, which are not put together:
                autograd would save a copy.
        """
        weights_KIO = self.weight.transpose(1, 2).split([len(part) for part in parts])
        biases_K1O = self.bias[:, None].split([len(part) for part in parts])
        outputs = map(torch.baddbmm, biases_K1O, parts, weights_KIO)
        return torch.cat(tuple(outputs))


class FeatureMixture(nn.Module):
    """Mixture of early features with the deepest, weighted by relevance and by redundancy.

    Each feature is reduced to a narrow code, `a = (W2 x + x) * sigmoid(W3 x)` of `x = relu(W1 f)`.
    An early code weighs more if it agrees with the deepest, and less if it resembles other early
    codes. The weighted sum plus the deepest code is widened, and a gate that starts at zero adds
    the residual stream.

    Args:
        features: K, at least 2.
        width: D.
        hidden_width: H.
        score_bias: Initial bias of the scores, which a ReLU follows.
    """

    def __init__(self, features: int, width: int, hidden_width: int, *, score_bias: float) -> None:
        super().__init__()
        self.reduce = FeatureLinear(features, width, hidden_width)
        self.value = FeatureLinear(features, hidden_width, hidden_width)
        self.gate = FeatureLinear(features, hidden_width, hidden_width)
        self.score = _small_linear(hidden_width, 1)
        nn.init.constant_(self.score.bias, score_bias)
        self.widen = _small_linear(hidden_width, width)
        self.stream_gate = nn.Parameter(torch.zeros(1))

    def forward(self, embedding_NTD: Tensor, blocks_JNTD: Tensor, stream_NTD: Tensor) -> Tensor:
        """Return the mixture [N, T, D].

        Args:
            embedding_NTD: The first feature, in the precision of the weights.
            blocks_JNTD: The others, from early to deep, likewise.
            stream_NTD: Residual stream that the mixture replaces, likewise.
        """
        codes_KMH = self._codes(embedding_NTD.flatten(0, 1)[None], blocks_JNTD.flatten(1, 2))
        early_JMH, deep_MH = codes_KMH[:-1], codes_KMH[-1]
        shares_JM = self._shares(early_JMH, deep_MH)
        mixed_MH = (shares_JM[..., None] * early_JMH).sum(0) + deep_MH
        widened_NTD = self.widen(F.relu(mixed_MH)).view(stream_NTD.shape)
        gate = torch.tanh(self.stream_gate / GATE_TEMPERATURE)
        mixture_NTD: Tensor = widened_NTD + gate * stream_NTD
        return mixture_NTD

    def _codes(self, embedding_1MD: Tensor, blocks_JMD: Tensor) -> Tensor:
        inner_KMH = F.relu(self.reduce(embedding_1MD, blocks_JMD))
        codes_KMH: Tensor = self.value(inner_KMH) + inner_KMH
        return codes_KMH * torch.sigmoid(self.gate(inner_KMH))

    def _shares(self, early_JMH: Tensor, deep_MH: Tensor) -> Tensor:
        """Return the share [J, M] of each early code, which sum to one or are all zero."""
        norms_JM1 = torch.linalg.vector_norm(early_JMH, dim=-1, keepdim=True)
        directions_MJH = (early_JMH / (norms_JM1 + EPSILON)).transpose(0, 1)
        similarities_MJJ = directions_MJH @ directions_MJH.transpose(1, 2)
        # A code is as similar to itself as can be, so this is at least one. Only a code of zeros
        # has none; the paper's code then divides zero by zero.
        redundancies_JM = F.relu(similarities_MJJ).sum(-1).T.clamp(min=1.0)
        scores_JM = F.relu(self.score(early_JMH * deep_MH)[..., 0]) / redundancies_JM
        return scores_JM / (scores_JM.sum(0) + EPSILON)


def _small_linear(width: int, output_width: int) -> nn.Linear:
    layer = nn.Linear(width, output_width)
    nn.init.normal_(layer.weight, std=SMALL_STD)
    nn.init.zeros_(layer.bias)
    return layer
