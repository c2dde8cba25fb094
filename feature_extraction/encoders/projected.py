"""Image encoders that a language model reads: cells of another encoder, pooled and projected."""

import torch
from torch import Tensor
from torch.nn import functional

# B images, C channels, H and W cells, R rows and columns of the pooled grid

__all__ = ["pool_with_positions"]


def pool_with_positions(grid_BCHW: Tensor, side: int) -> Tensor:
    """Average a grid to `side` x `side` cells and append each cell's row and column, one-hot.

    A language model with relative positions has no other way to tell where in an image a cell is.

    Args:
        grid_BCHW: Features of an image encoder's cells.
        side: Number of rows and of columns of the pooled grid.

    Returns:
        `[B, C + 2 * side, side, side]`.
    """
    pooled_BCRR = functional.adaptive_avg_pool2d(grid_BCHW, side)
    rows_RRR = torch.eye(side, dtype=pooled_BCRR.dtype, device=pooled_BCRR.device)[:, :, None]
    rows_RRR = rows_RRR.expand(side, side, side)
    positions_BPRR = torch.cat((rows_RRR, rows_RRR.mT)).expand(len(grid_BCHW), -1, -1, -1)
    return torch.cat((pooled_BCRR, positions_BPRR), dim=1)
