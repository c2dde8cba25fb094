"""One block of the side network, with fused projections and fused attention.

Its arithmetic is that of Raffel et al. 2020 (arXiv 1910.10683), whatever the backbone: a norm
before each sublayer, no biases, attention without a scale, relative positions.

B examples, Q queries, S keys, H heads, C head width, E = H*C, R side width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vl_lst.models.norm import RootMeanSquareNorm

__all__ = ["CrossAttention", "FeedForward", "KeyValues", "SelfAttention", "SideBlock", "SideSizes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SideSizes:
    """Sizes of a side network: the backbone's, divided by the reduction, with as many heads.

    Args:
        width: R, the width of the residual stream.
        heads: H.
        head_width: C.
        inner_width: Hidden width of the feed-forward layer.
        is_gated: Whether that layer is a gated GELU (Shazeer 2020, arXiv 2002.05202) instead of a
            ReLU.
        epsilon: Epsilon of the norms.
        dropout: Dropout probability.
    """

    width: int
    heads: int
    head_width: int
    inner_width: int
    is_gated: bool
    epsilon: float
    dropout: float


class KeyValues:
    """Keys and values [B, H, capacity, C] of one attention, of which the first `length` are set."""

    def __init__(self, keys_BHSC: Tensor, values_BHSC: Tensor, *, length: int) -> None:
        self._keys_BHSC = keys_BHSC
        self._values_BHSC = values_BHSC
        self.length = length

    def append(self, keys_BHQC: Tensor, values_BHQC: Tensor) -> None:
        """Write the next keys and values after the existing ones."""
        end = self.length + keys_BHQC.shape[2]
        self._keys_BHSC[:, :, self.length : end] = keys_BHQC
        self._values_BHSC[:, :, self.length : end] = values_BHQC
        self.length = end

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        self._keys_BHSC = self._keys_BHSC.index_select(0, rows)
        self._values_BHSC = self._values_BHSC.index_select(0, rows)

    def contiguous(self) -> "KeyValues":
        """Return the same with the keys of each head in one piece, which each token would copy."""
        keys_BHSC, values_BHSC = self._keys_BHSC.contiguous(), self._values_BHSC.contiguous()
        return KeyValues(keys_BHSC, values_BHSC, length=self.length)

    def read(self) -> tuple[Tensor, Tensor]:
        """Return the keys and values written so far."""
        return self._keys_BHSC[:, :, : self.length], self._values_BHSC[:, :, : self.length]


def _initial(rows: int, columns: int, std: float) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) * std)


def attend_in_steps(
    queries_BHQC: Tensor, keys_BHSC: Tensor, values_BHSC: Tensor, mask: Tensor
) -> Tensor:
    """Attend without a scale and without a fused kernel: [B, H, Q, C].

    For the few queries of generation, torch's fused attention on the CPU takes three to five times
    as long in bfloat16 as these products do.

    Args:
        queries_BHQC: Queries.
        keys_BHSC: Keys.
        values_BHSC: Values.
        mask: Added to the scores, or True for the keys of a query; broadcastable.
    """
    scores_BHQS = queries_BHQC @ keys_BHSC.transpose(2, 3)
    if mask.dtype == torch.bool:
        scores_BHQS = scores_BHQS.masked_fill(~mask, torch.finfo(scores_BHQS.dtype).min)
    else:
        scores_BHQS = scores_BHQS + mask
    return scores_BHQS.softmax(-1) @ values_BHSC


class _Attention(nn.Module):
    """Common part of both attentions, which have no scale and no biases."""

    o: nn.Parameter

    def __init__(self, sizes: SideSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.dropout = sizes.dropout

    def _split(self, states_BSE: Tensor) -> Tensor:
        """Split the last dimension into heads: [B, S, E] to [B, H, S, C]."""
        batch, length, width = states_BSE.shape
        return states_BSE.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

    def _attend(
        self,
        queries_BHQC: Tensor,
        keys_BHSC: Tensor,
        values_BHSC: Tensor,
        mask: Tensor,
        *,
        is_cached: bool,
    ) -> Tensor:
        """Attend, merge the heads and project them: [B, Q, R].

        Args:
            queries_BHQC: Queries.
            keys_BHSC: Keys.
            values_BHSC: Values.
            mask: Added to the scores, or True for the keys of a query; broadcastable.
            is_cached: Whether the keys are those of a cache, while generating.
        """
        if is_cached and queries_BHQC.device.type == "cpu":
            attended_BHQC = attend_in_steps(queries_BHQC, keys_BHSC, values_BHSC, mask)
        else:
            attended_BHQC = F.scaled_dot_product_attention(
                queries_BHQC,
                keys_BHSC,
                values_BHSC,
                attn_mask=mask,
                dropout_p=self.dropout if self.training else 0.0,
                scale=1.0,
            )
        return F.linear(attended_BHQC.transpose(1, 2).flatten(2), self.o)


class SelfAttention(_Attention):
    """Self-attention with an additive position bias.

    Args:
        sizes: Sizes.
    """

    def __init__(self, sizes: SideSizes) -> None:
        super().__init__(sizes)
        inner = sizes.heads * sizes.head_width
        # The initial scale of the queries includes the 1/sqrt(C) that the scores lack.
        keys_and_values = _initial(2 * inner, sizes.width, sizes.width**-0.5)
        queries = _initial(inner, sizes.width, (sizes.width * sizes.head_width) ** -0.5)
        self.qkv = nn.Parameter(torch.cat((queries.detach(), keys_and_values.detach())))
        self.o = _initial(sizes.width, inner, inner**-0.5)

    def empty_cache(self, like_BSR: Tensor, capacity: int) -> KeyValues:
        """Return an empty cache for `capacity` tokens per row."""
        size = (like_BSR.shape[0], self.heads, capacity, self.o.shape[1] // self.heads)
        return KeyValues(like_BSR.new_empty(size), like_BSR.new_empty(size), length=0)

    def forward(
        self, states_BQR: Tensor, bias_BHQS: Tensor, cache: KeyValues | None = None
    ) -> Tensor:
        """Attend from and to the same states; [B, Q, R] in and out.

        Args:
            states_BQR: Normed states.
            bias_BHQS: Position bias plus mask, broadcastable.
            cache: Earlier keys and values; extended by those of `states_BQR`.
        """
        queries, keys, values = (
            self._split(part) for part in F.linear(states_BQR, self.qkv).chunk(3, -1)
        )
        if cache is not None:
            cache.append(keys, values)
            keys, values = cache.read()
        bias_BHQS = bias_BHQS.to(queries.dtype)
        return self._attend(queries, keys, values, bias_BHQS, is_cached=cache is not None)


class CrossAttention(_Attention):
    """Attention from the decoder to the encoder, without a position bias.

    Args:
        sizes: Sizes.
        memory_width: Width of the encoder's states.
    """

    def __init__(self, sizes: SideSizes, memory_width: int) -> None:
        super().__init__(sizes)
        inner = sizes.heads * sizes.head_width
        self.q = _initial(inner, sizes.width, (sizes.width * sizes.head_width) ** -0.5)
        self.kv = _initial(2 * inner, memory_width, memory_width**-0.5)
        self.o = _initial(sizes.width, inner, inner**-0.5)

    def project(self, memory_BSR: Tensor) -> KeyValues:
        """Return keys and values of the encoder's states, which all generated tokens share."""
        keys, values = (self._split(part) for part in F.linear(memory_BSR, self.kv).chunk(2, -1))
        return KeyValues(keys, values, length=keys.shape[2])

    def forward(self, states_BQR: Tensor, memory: Tensor | KeyValues, mask_B11S: Tensor) -> Tensor:
        """Attend to the encoder; [B, Q, R] in and out.

        Args:
            states_BQR: Normed states; while generating, one row per beam.
            memory: States of the encoder [B, S, R], or the output of `project`.
            mask_B11S: True where the encoder's state may be attended to.
        """
        is_cached = isinstance(memory, KeyValues)
        keys, values = (memory if isinstance(memory, KeyValues) else self.project(memory)).read()
        # The beams of an example, which are rows of one token, are queries to the same states.
        states = states_BQR.reshape(len(keys), -1, states_BQR.shape[-1])
        queries = self._split(F.linear(states, self.q))
        return self._attend(queries, keys, values, mask_B11S, is_cached=is_cached).view_as(
            states_BQR
        )


class FeedForward(nn.Module):
    """Feed-forward layer with a ReLU or a gated GELU, without biases.

    Args:
        sizes: Sizes.
    """

    def __init__(self, sizes: SideSizes) -> None:
        super().__init__()
        branches = 2 if sizes.is_gated else 1
        self.is_gated = sizes.is_gated
        self.dropout = nn.Dropout(sizes.dropout)
        self.wi = _initial(branches * sizes.inner_width, sizes.width, sizes.width**-0.5)
        self.wo = _initial(sizes.width, sizes.inner_width, sizes.inner_width**-0.5)

    def forward(self, states_BQR: Tensor) -> Tensor:
        """Transform each state separately; [B, Q, R] in and out."""
        inner = F.linear(states_BQR, self.wi)
        if self.is_gated:
            activated, linear = inner.chunk(2, -1)
            inner = F.gelu(activated, approximate="tanh") * linear
        else:
            inner = F.relu(inner)
        return F.linear(self.dropout(inner), self.wo)


class SideBlock(nn.Module):
    """Pre-norm block of the side network.

    Args:
        sizes: Sizes.
        memory_width: Width of the side encoder's states, to which a decoder's block attends;
            `None` in an encoder.
    """

    def __init__(self, sizes: SideSizes, *, memory_width: int | None) -> None:
        super().__init__()
        self.self_attention_norm = RootMeanSquareNorm(sizes.width, eps=sizes.epsilon)
        self.self_attention = SelfAttention(sizes)
        self.cross_attention_norm = (
            None if memory_width is None else RootMeanSquareNorm(sizes.width, eps=sizes.epsilon)
        )
        self.cross_attention = None if memory_width is None else CrossAttention(sizes, memory_width)
        self.feed_forward_norm = RootMeanSquareNorm(sizes.width, eps=sizes.epsilon)
        self.feed_forward = FeedForward(sizes)
        self.dropout = nn.Dropout(sizes.dropout)

    def new_cache(self, memory_BSR: Tensor, capacity: int) -> tuple[KeyValues, KeyValues]:
        """Return the keys and values of the encoder's states and an empty self-attention cache.

        Args:
            memory_BSR: States of the side encoder.
            capacity: Number of tokens for which the cache has room.
        """
        if self.cross_attention is None:
            raise RuntimeError("an encoder block has no cache: expected a decoder block")
        memory = self.cross_attention.project(memory_BSR).contiguous()
        return memory, self.self_attention.empty_cache(memory_BSR, capacity)

    def forward(
        self,
        states_BQR: Tensor,
        bias_BHQS: Tensor,
        memory: Tensor | KeyValues | None = None,
        memory_mask_B11S: Tensor | None = None,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """Apply the block; [B, Q, R] in and out.

        Args:
            states_BQR: Residual stream.
            bias_BHQS: Position bias plus mask of the self-attention, broadcastable.
            memory: States of the side encoder, or their projections; in a decoder only.
            memory_mask_B11S: True where `memory` may be attended to.
            cache: Self-attention keys and values of earlier tokens, while generating.
        """
        attended = self.self_attention(self.self_attention_norm(states_BQR), bias_BHQS, cache)
        states_BQR = states_BQR + self.dropout(attended)
        if self.cross_attention is not None and self.cross_attention_norm is not None:
            normed = self.cross_attention_norm(states_BQR)
            crossed = self.cross_attention(normed, memory, memory_mask_B11S)
            states_BQR = states_BQR + self.dropout(crossed)
        fed: Tensor = self.feed_forward(self.feed_forward_norm(states_BQR))
        fed = self.dropout(fed)
        return states_BQR + fed
