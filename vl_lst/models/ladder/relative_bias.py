"""Relative position bias (Raffel et al. 2020, arXiv 1910.10683, section 2.1)."""

import math

import torch
from torch import Tensor, nn

__all__ = ["RelativePositionBias", "relative_position_bucket"]


def relative_position_bucket(
    offset: Tensor, *, bidirectional: bool, buckets: int, max_distance: int
) -> Tensor:
    """Return the bucket of each key-minus-query offset.

    Half of the buckets hold one offset each; the rest widen logarithmically up to `max_distance`,
    from which on all offsets share the last. Bidirectional attention uses half of all buckets for
    keys after the query; causal attention has no such keys.

    Args:
        offset: Integer tensor of any shape.
        bidirectional: Whether keys may come after the query.
        buckets: Number of buckets.
        max_distance: Distance from which on all offsets share one bucket.
    """
    if bidirectional:
        buckets //= 2
        after = (offset > 0).long() * buckets
        distance = offset.abs()
    else:
        after = torch.zeros_like(offset)
        distance = (-offset).clamp(min=0)
    exact = buckets // 2
    # Same order of float32 operations as in transformers: the same rounding at bucket borders.
    widening = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (widening * (buckets - exact)).long()).clamp(max=buckets - 1)
    return after + torch.where(distance < exact, distance, far)


class RelativePositionBias(nn.Module):
    """Learned bias per attention head and bucket of offsets.

    Args:
        heads: Number of attention heads.
        buckets: Number of buckets.
        max_distance: Distance from which on all offsets share one bucket.
        bidirectional: True in an encoder, False in a decoder.
    """

    def __init__(self, heads: int, *, buckets: int, max_distance: int, bidirectional: bool) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(buckets, heads))
        self.max_distance = max_distance
        self.bidirectional = bidirectional

    def forward(self, queries: int, keys: int) -> Tensor:
        """Return the bias [1, heads, queries, keys]; the queries are at the last key positions."""
        device = self.table.device
        query = torch.arange(keys - queries, keys, device=device)
        offset = torch.arange(keys, device=device)[None, :] - query[:, None]
        bucket = relative_position_bucket(
            offset,
            bidirectional=self.bidirectional,
            buckets=self.table.shape[0],
            max_distance=self.max_distance,
        )
        return self.table[bucket].permute(2, 0, 1).unsqueeze(0)
