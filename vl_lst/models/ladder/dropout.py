"""Dropout masks of a side network, cut out of one pool of random numbers per stack and step.

On a CPU, random numbers for every tensor take longer than all other elementwise operations of a
side block together. Here, a stack draws a pool of at most `MAX_POOL` decisions at the start of a
step, and every place with dropout reads it from another offset:

* Each value is dropped with exactly the probability that is asked for.
* Within an example, the decisions of one place are independent. If a tensor is larger than the
  pool, the windows of its examples overlap, so a decision applies to several examples, but to
  another value in each.
* Different places share decisions at a fixed distance, so a decision applies to unrelated values.
* Recomputation in the backward pass reads the same masks, as an offset depends only on the place.

P values of the pool.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["DropoutMasks", "draw_pool", "drop"]

MAX_POOL = 1 << 16
# Offsets are multiples of 16 values, so that masks start at the border of a vector register, and
# consecutive places differ by a number of values that no common width divides.
ALIGNMENT = 16
STEP = 65 * ALIGNMENT


def draw_pool(
    shapes: Iterable[Sequence[int]],
    probability: float,
    *,
    places: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return a pool [P] that holds 0 with a probability, and otherwise its factor.

    Args:
        shapes: Shapes of the largest masks, whose first dimension is the examples.
        probability: Dropout probability.
        places: Number of places that read the pool.
        dtype: Data type of the masks.
        device: Device of the masks.
    """
    window = max(_window(shape) for shape in shapes)
    pool_P = torch.empty(window + (places - 1) * STEP, dtype=dtype, device=device)
    return pool_P.bernoulli_(1 - probability).div_(1 - probability)


def _window(shape: Sequence[int]) -> int:
    """Return the number of values of the pool that a mask of this shape reads."""
    rows, row = shape[0], math.prod(shape[1:])
    return min(rows * row, max(MAX_POOL, row + rows * ALIGNMENT))


class DropoutMasks:
    """Masks for the places of a stack, in the order in which they are read.

    Args:
        pool_P: Output of `draw_pool`.
        first: Number of the first place.
    """

    def __init__(self, pool_P: Tensor, first: int = 0) -> None:
        self._pool_P = pool_P
        self._place = first

    def next(self, like: Tensor) -> Tensor:
        """Return the mask of the next place as a view of the pool, in the shape of a tensor."""
        return self.next_of(like.shape)

    def next_of(self, shape: Sequence[int]) -> Tensor:
        """Return the mask of the next place as a view of the pool [*shape]."""
        rows, row = shape[0], math.prod(shape[1:])
        distance = row
        if (window := _window(shape)) < rows * row:
            distance = (window - row) // rows // ALIGNMENT * ALIGNMENT
        offset = self._place * STEP
        self._place += 1
        inner = [math.prod(shape[dimension + 1 :]) for dimension in range(1, len(shape))]
        return self._pool_P.as_strided(tuple(shape), (distance, *inner), offset)


def drop(states: Tensor, masks: DropoutMasks | None) -> Tensor:
    """Return states after the dropout of the next place; `None` means no dropout."""
    return states if masks is None else states * masks.next(states)
