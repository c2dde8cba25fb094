"""One T5 block of the side network, with fused projections and fused attention.

B batch, Q queries, S keys, H heads, C head width, R side width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vl_lst.models.norm import RootMeanSquareNorm

__all__ = ["CrossAttention", "FeedForward", "KeyValues", "SelfAttention", "SideBlock", "SideShape"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SideShape:
    """Sizes of a side network: the backbone's, divided by the reduction; heads stay as many.

    Args:
        width: R, the residual stream.
        heads: H.
        head_width: C.
        inner_width: Hidden width of the feed-forward layer.
        gated: Whether that layer is T5 v1.1's gated GELU instead of v1.0's ReLU.
        epsilon: Of the norms.
        dropout: Probability.
    """

    width: int
    heads: int
    head_width: int
    inner_width: int
    gated: bool
    epsilon: float
    dropout: float


class KeyValues:
    """Keys and values of one attention while generating: [B, H, capacity, C], filled in turn."""

    def __init__(self, keys_BHSC: Tensor, values_BHSC: Tensor, *, filled: int) -> None:
        self._keys_BHSC = keys_BHSC
        self._values_BHSC = values_BHSC
        self.filled = filled

    def append(self, keys_BHQC: Tensor, values_BHQC: Tensor) -> None:
        """Write the next keys and values behind those there are."""
        end = self.filled + keys_BHQC.shape[2]
        self._keys_BHSC[:, :, self.filled : end] = keys_BHQC
        self._values_BHSC[:, :, self.filled : end] = values_BHQC
        self.filled = end

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        self._keys_BHSC = self._keys_BHSC.index_select(0, rows)
        self._values_BHSC = self._values_BHSC.index_select(0, rows)

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values written so far."""
        return self._keys_BHSC[:, :, : self.filled], self._values_BHSC[:, :, : self.filled]


def _split_heads(states_BSE: Tensor, heads: int) -> Tensor:
    batch, length, width = states_BSE.shape
    return states_BSE.view(batch, length, heads, width // heads).transpose(1, 2)


def _merge_heads(states_BHQC: Tensor) -> Tensor:
    batch, heads, queries, head_width = states_BHQC.shape
    return states_BHQC.transpose(1, 2).reshape(batch, queries, heads * head_width)


def _initial(rows: int, columns: int, std: float) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) * std)


class SelfAttention(nn.Module):
    """T5 self-attention: no scale, no biases, an additive position bias.

    Args:
        shape: Sizes.
    """

    def __init__(self, shape: SideShape) -> None:
        super().__init__()
        inner = shape.heads * shape.head_width
        self.heads = shape.heads
        self.dropout = shape.dropout
        # T5's initial scales: the missing 1/sqrt(C) of the scores is folded into the queries.
        keys_and_values = _initial(2 * inner, shape.width, shape.width**-0.5)
        queries = _initial(inner, shape.width, (shape.width * shape.head_width) ** -0.5)
        self.qkv = nn.Parameter(torch.cat((queries.detach(), keys_and_values.detach())))
        self.o = _initial(shape.width, inner, inner**-0.5)

    def empty_cache(self, like_BSR: Tensor, capacity: int) -> KeyValues:
        """Room for the keys and values of `capacity` tokens a row."""
        size = (like_BSR.shape[0], self.heads, capacity, self.o.shape[1] // self.heads)
        return KeyValues(like_BSR.new_empty(size), like_BSR.new_empty(size), filled=0)

    def forward(
        self, states_BQR: Tensor, bias_BHQS: Tensor, cache: KeyValues | None = None
    ) -> Tensor:
        """Attend from and to the same states; [B, Q, R] in and out.

        Args:
            states_BQR: Normed states.
            bias_BHQS: Position bias plus mask, broadcastable.
            cache: Earlier keys and values; grows by those of `states_BQR`.
        """
        queries, keys, values = (
            _split_heads(part, self.heads) for part in F.linear(states_BQR, self.qkv).chunk(3, -1)
        )
        if cache is not None:
            cache.append(keys, values)
            keys, values = cache.read()
        attended = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=bias_BHQS.to(queries.dtype),
            dropout_p=self.dropout if self.training else 0.0,
            scale=1.0,
        )
        return F.linear(_merge_heads(attended), self.o)


class CrossAttention(nn.Module):
    """T5 attention from the decoder to the encoder: no scale, no biases, no position bias.

    Args:
        shape: Sizes.
    """

    def __init__(self, shape: SideShape) -> None:
        super().__init__()
        inner = shape.heads * shape.head_width
        self.heads = shape.heads
        self.dropout = shape.dropout
        self.q = _initial(inner, shape.width, (shape.width * shape.head_width) ** -0.5)
        self.kv = _initial(2 * inner, shape.width, shape.width**-0.5)
        self.o = _initial(shape.width, inner, inner**-0.5)

    def project(self, memory_BSR: Tensor) -> KeyValues:
        """Keys and values of the encoder's states, to be used for every token generated."""
        keys, values = (
            _split_heads(part, self.heads) for part in F.linear(memory_BSR, self.kv).chunk(2, -1)
        )
        return KeyValues(keys, values, filled=keys.shape[2])

    def forward(self, states_BQR: Tensor, memory: Tensor | KeyValues, mask_B11S: Tensor) -> Tensor:
        """Attend to the encoder; [B, Q, R] in and out.

        Args:
            states_BQR: Normed states.
            memory: The encoder's states [B, S, R], or what `project` made of them.
            mask_B11S: Boolean, True where the encoder's state may be looked at.
        """
        if isinstance(memory, Tensor):
            memory = self.project(memory)
        keys, values = memory.read()
        attended = F.scaled_dot_product_attention(
            _split_heads(F.linear(states_BQR, self.q), self.heads),
            keys,
            values,
            attn_mask=mask_B11S,
            dropout_p=self.dropout if self.training else 0.0,
            scale=1.0,
        )
        return F.linear(_merge_heads(attended), self.o)


class FeedForward(nn.Module):
    """T5's feed-forward layer: ReLU (v1.0) or gated GELU (v1.1), no biases.

    Args:
        shape: Sizes.
    """

    def __init__(self, shape: SideShape) -> None:
        super().__init__()
        branches = 2 if shape.gated else 1
        self.gated = shape.gated
        self.dropout = nn.Dropout(shape.dropout)
        self.wi = _initial(branches * shape.inner_width, shape.width, shape.width**-0.5)
        self.wo = _initial(shape.width, shape.inner_width, shape.inner_width**-0.5)

    def forward(self, states_BQR: Tensor) -> Tensor:
        """Transform each state alone; [B, Q, R] in and out."""
        inner = F.linear(states_BQR, self.wi)
        if self.gated:
            activated, linear = inner.chunk(2, -1)
            inner = F.gelu(activated, approximate="tanh") * linear
        else:
            inner = F.relu(inner)
        return F.linear(self.dropout(inner), self.wo)


class SideBlock(nn.Module):
    """A pre-norm T5 block at the side network's width.

    Args:
        shape: Sizes.
        decoder: Whether the block also attends to the side encoder.
    """

    def __init__(self, shape: SideShape, *, decoder: bool) -> None:
        super().__init__()
        self.self_attention_norm = RootMeanSquareNorm(shape.width, eps=shape.epsilon)
        self.self_attention = SelfAttention(shape)
        self.cross_attention_norm = (
            RootMeanSquareNorm(shape.width, eps=shape.epsilon) if decoder else None
        )
        self.cross_attention = CrossAttention(shape) if decoder else None
        self.feed_forward_norm = RootMeanSquareNorm(shape.width, eps=shape.epsilon)
        self.feed_forward = FeedForward(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def new_cache(self, memory_BSR: Tensor, capacity: int) -> tuple[KeyValues, KeyValues]:
        """What a decoder's block remembers while generating.

        Returns:
            Keys and values of the encoder's states, and room for those of `capacity` tokens.
        """
        if self.cross_attention is None:
            raise RuntimeError("only a decoder's block generates")
        memory = self.cross_attention.project(memory_BSR)
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
            bias_BHQS: Self-attention's position bias plus mask, broadcastable.
            memory: States of the side encoder, or their projections, in a decoder.
            memory_mask_B11S: Which of them may be looked at.
            cache: Earlier self-attention keys and values while generating.
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
