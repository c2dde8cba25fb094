"""Decoding one token at a time, with several beams per example.

The beams of an example attend to the same encoder states. Their keys and values are computed and
kept once per example, and the beams become the queries of one attention, if the decoder's attention
can be replaced through transformers' attention interface and has keys of the encoder alone.

B examples, K beams, N = B * K rows, H heads, L tokens, S keys, C head width.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, EncoderDecoderCache
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = ["BackboneCache", "beam_attention", "cache_argument", "can_replace_attention"]

ATTENTION = "beams_as_queries"


class BackboneCache:
    """Keys and values of the backbone's decoder during generation.

    Args:
        entries: Empty cache of the backbone.
        shares_memory: Whether the beams of an example share the keys and values of the encoder's
            states, so that there is one row of these per example.
    """

    def __init__(self, entries: EncoderDecoderCache, *, shares_memory: bool) -> None:
        self.entries: Any = entries
        self.shares_memory = shares_memory
        self._beams = 1

    def branch(self, beams: int) -> int:
        """Repeat every row, for the beams of an example.

        Args:
            beams: Number of beams.

        Returns:
            How often the rows of the encoder's states must be repeated.
        """
        self.entries.self_attention_cache.batch_repeat_interleave(beams)
        if self.shares_memory:
            self._beams = beams
            return 1
        self.entries.cross_attention_cache.batch_repeat_interleave(beams)
        return beams

    def select(self, rows: Tensor) -> Tensor:
        """Keep these rows, in this order; a row may occur several times.

        Args:
            rows: Rows [N]; all beams of an example are kept, in any order.

        Returns:
            The rows of the encoder's states to keep.
        """
        self.reorder(rows)
        kept = rows[:: self._beams] // self._beams
        self.entries.cross_attention_cache.reorder_cache(kept)
        return kept

    def reorder(self, rows: Tensor) -> None:
        """Do the same as `select` if every row stays within its example, as in beam search."""
        self.entries.self_attention_cache.reorder_cache(rows)


@cache
def cache_argument(forward: Callable[..., Any]) -> str:
    """Return the name of the argument by which a stock decoder takes its cache.

    It is `cache` from transformers 5.24 on, and `past_key_values` before.

    Args:
        forward: Method `forward` of the decoder's class.
    """
    accepted = inspect.signature(forward).parameters
    return "cache" if "cache" in accepted else "past_key_values"


def can_replace_attention(decoder: Any) -> bool:
    """Return whether all attentions of a decoder go through transformers' attention interface."""
    return hasattr(sys.modules[type(decoder).__module__], "ALL_ATTENTION_FUNCTIONS")


@contextmanager
def beam_attention(decoder: Any) -> Iterator[None]:
    """Let the beams of an example be the queries of one attention within the context.

    Args:
        decoder: Decoder of a stock model for which `can_replace_attention` is true.
    """
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)


def _attend(
    module: Any,
    query_NHLC: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as the stock model does, with beams as queries if keys are those of examples.

    Args:
        module: Attention of the stock model.
        query_NHLC: Queries; with fewer rows of keys, of one token.
        key: Keys [N, H, S, C] or [B, H, S, C].
        value: Values, likewise.
        attention_mask: True or zero for keys that may be attended to, broadcastable to the
            products of each row of keys.
        options: Further arguments of an attention function.

    Returns:
        What is attended to [N, L, H, C], and no weights.
    """
    rows, heads, length, width = query_NHLC.shape
    query = query_NHLC
    if len(key) != rows:
        query = query_NHLC.reshape(len(key), -1, heads, width).transpose(1, 2)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        added = torch.zeros_like(attention_mask, dtype=query.dtype)
        attention_mask = added.masked_fill(~attention_mask, torch.finfo(query.dtype).min)
    attend = _stock_attention(module, query, options)
    attended, _ = attend(module, query, key, value, attention_mask, **options)
    return attended.reshape(rows, length, heads, width), None


def _stock_attention(module: Any, query: Tensor, options: Any) -> Callable[..., Any]:
    """Return the model's attention in single steps on a CPU, else torch's fused attention.

    For one query, torch's fused attention on the CPU takes three to five times as long in bfloat16
    as the products do. It has no bound of the products (`softcap`) on any device.
    """
    in_steps = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if in_steps is not None and (query.device.type == "cpu" or options.get("softcap") is not None):
        chosen: Callable[..., Any] = in_steps
        return chosen
    fused: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS["sdpa"]
    return fused


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
