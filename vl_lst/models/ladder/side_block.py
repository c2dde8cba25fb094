"""One block of the side network, with fused projections and fused attention.

Its arithmetic is that of Raffel et al. 2020 (arXiv 1910.10683), whatever the backbone: a norm
before each sublayer, no biases, attention without a scale, relative positions.

B examples, Q queries, S keys, H heads, C head width, E = H*C, R side width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vl_lst.models.ladder.dropout import DropoutMasks
from vl_lst.models.ladder.fused import add_dropped, attend_with_bias
from vl_lst.models.norm import RootMeanSquareNorm

__all__ = [
    "MASKED",
    "MASKS_PER_BLOCK",
    "CrossAttention",
    "FeedForward",
    "KeyValues",
    "SelfAttention",
    "SideBlock",
    "SideSizes",
]

# The additive mask of the reference implementation: large enough that a masked key gets exactly
# zero weight in float32, small enough not to overflow in bfloat16.
MASKED = -1e4
# Each of three sublayers has one within it, and one for its output.
MASKS_PER_BLOCK = 6


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


class _Attention(nn.Module):
    """Common part of both attentions, which have no scale and no biases."""

    o: nn.Parameter

    def __init__(self, sizes: SideSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.dropout = sizes.dropout

    def _attend(
        self,
        queries_BQE: Tensor,
        keys_values_BSF: Tensor,
        bias_BHQS: Tensor,
        masks: DropoutMasks | None,
    ) -> Tensor:
        """Attend, merge the heads and project them: [B, Q, R].

        Args:
            queries_BQE: Queries.
            keys_values_BSF: Keys, followed by values; F = 2 * E.
            bias_BHQS: Position bias plus mask, broadcastable.
            masks: See `SideBlock`.
        """
        if queries_BQE.device.type == "cpu" and torch.is_grad_enabled():
            batch, queries, _ = queries_BQE.shape
            shape = (batch, self.heads, queries, keys_values_BSF.shape[1])
            keep_BHQS = None if masks is None else masks.next_of(shape)
            attended_BQE = attend_with_bias(
                queries_BQE, keys_values_BSF, bias_BHQS, keep_BHQS, heads=self.heads
            )
            return F.linear(attended_BQE, self.o)
        keys, values = (self._split(part) for part in keys_values_BSF.chunk(2, -1))
        return self._attend_to(self._split(queries_BQE), keys, values, bias_BHQS)

    def _split(self, states_BSE: Tensor) -> Tensor:
        """Split the last dimension into heads: [B, S, E] to [B, H, S, C]."""
        batch, length, width = states_BSE.shape
        return states_BSE.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

    def _attend_to(
        self, queries_BHQC: Tensor, keys_BHSC: Tensor, values_BHSC: Tensor, bias_BHQS: Tensor
    ) -> Tensor:
        """Do the same as `_attend` with a kernel of torch."""
        attended_BHQC = F.scaled_dot_product_attention(
            queries_BHQC,
            keys_BHSC,
            values_BHSC,
            attn_mask=bias_BHQS,
            dropout_p=self.dropout if self.training else 0.0,
            scale=1.0,
        )
        return self._merge(attended_BHQC)

    def _attend_to_cache(self, queries_BHQC: Tensor, cache: KeyValues, bias_BHQS: Tensor) -> Tensor:
        """Do the same as `_attend` for the few queries of generation."""
        keys_BHSC, values_BHSC = cache.read()
        if queries_BHQC.device.type != "cpu":
            return self._attend_to(queries_BHQC, keys_BHSC, values_BHSC, bias_BHQS)
        # For one query, torch's kernel for the CPU takes three to five times as long in bfloat16.
        scores_BHQS = queries_BHQC @ keys_BHSC.transpose(2, 3) + bias_BHQS
        return self._merge(scores_BHQS.softmax(-1) @ values_BHSC)

    def _merge(self, attended_BHQC: Tensor) -> Tensor:
        """Merge the heads and project them: [B, Q, R]."""
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
        self,
        states_BQR: Tensor,
        bias_BHQS: Tensor,
        cache: KeyValues | None = None,
        masks: DropoutMasks | None = None,
    ) -> Tensor:
        """Attend from and to the same states; [B, Q, R] in and out.

        Args:
            states_BQR: Normed states.
            bias_BHQS: Position bias plus mask, broadcastable.
            cache: Earlier keys and values; extended by those of `states_BQR`.
            masks: See `SideBlock`.
        """
        projected = F.linear(states_BQR, self.qkv)
        bias_BHQS = bias_BHQS.to(projected.dtype)
        if cache is None:
            inner = self.o.shape[1]
            queries_BQE, keys_values_BQF = projected.split((inner, 2 * inner), -1)
            return self._attend(queries_BQE, keys_values_BQF, bias_BHQS, masks)
        queries, keys, values = (self._split(part) for part in projected.chunk(3, -1))
        cache.append(keys, values)
        return self._attend_to_cache(queries, cache, bias_BHQS)


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

    def forward(
        self,
        states_BQR: Tensor,
        memory: Tensor | KeyValues,
        mask_B11S: Tensor,
        masks: DropoutMasks | None = None,
    ) -> Tensor:
        """Attend to the encoder; [B, Q, R] in and out.

        Args:
            states_BQR: Normed states; while generating, one row per beam.
            memory: States of the encoder [B, S, R], or the output of `project`.
            mask_B11S: True where the encoder's state may be attended to.
            masks: See `SideBlock`.
        """
        queries_BQE = F.linear(states_BQR, self.q)
        bias_B11S = torch.where(mask_B11S, 0.0, MASKED).to(queries_BQE.dtype)
        if isinstance(memory, Tensor):
            return self._attend(queries_BQE, F.linear(memory, self.kv), bias_B11S, masks)
        # The beams of an example, which are rows of one token, are queries to the same states.
        queries_BQE = queries_BQE.view(len(bias_B11S), -1, queries_BQE.shape[-1])
        attended = self._attend_to_cache(self._split(queries_BQE), memory, bias_B11S)
        return attended.view_as(states_BQR)


class FeedForward(nn.Module):
    """Feed-forward layer with a ReLU or a gated GELU, without biases.

    Args:
        sizes: Sizes.
    """

    def __init__(self, sizes: SideSizes) -> None:
        super().__init__()
        branches = 2 if sizes.is_gated else 1
        self.is_gated = sizes.is_gated
        self.wi = _initial(branches * sizes.inner_width, sizes.width, sizes.width**-0.5)
        self.wo = _initial(sizes.width, sizes.inner_width, sizes.inner_width**-0.5)

    def forward(self, states_BQR: Tensor, masks: DropoutMasks | None = None) -> Tensor:
        """Transform each state separately; [B, Q, R] in and out.

        Args:
            states_BQR: Normed states.
            masks: See `SideBlock`.
        """
        inner = F.linear(states_BQR, self.wi)
        if self.is_gated:
            activated, linear = inner.chunk(2, -1)
            inner = F.gelu(activated, approximate="tanh") * linear
        if masks is not None:
            inner.mul_(masks.next(inner))
        if not self.is_gated:
            # After the mask, with which it commutes: it saves its result, as the product does.
            inner.relu_()
        return F.linear(inner, self.wo)


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
        masks: DropoutMasks | None = None,
    ) -> Tensor:
        """Apply the block; [B, Q, R] in and out.

        Args:
            states_BQR: Residual stream.
            bias_BHQS: Position bias plus mask of the self-attention, broadcastable.
            memory: States of the side encoder, or their projections; in a decoder only.
            memory_mask_B11S: True where `memory` may be attended to.
            cache: Self-attention keys and values of earlier tokens, while generating.
            masks: Dropout masks, of which the block reads up to `MASKS_PER_BLOCK`; `None` without
                dropout.
        """

        def add(states: Tensor, addition: Tensor) -> Tensor:
            return add_dropped(states, addition, None if masks is None else masks.next(addition))

        normed = self.self_attention_norm(states_BQR)
        states_BQR = add(states_BQR, self.self_attention(normed, bias_BHQS, cache, masks))
        if self.cross_attention is not None and self.cross_attention_norm is not None:
            normed = self.cross_attention_norm(states_BQR)
            crossed = self.cross_attention(normed, memory, memory_mask_B11S, masks)
            states_BQR = add(states_BQR, crossed)
        normed = self.feed_forward_norm(states_BQR)
        return add(states_BQR, self.feed_forward(normed, masks))
