"""VL-T5's visual embedding: image features as tokens of the backbone's width.

B examples, I images, N stored tokens, M pooled tokens, V = I * M image tokens, F feature channels,
X grids of all images, g and p sides of a stored and a pooled grid, D backbone width.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vl_lst.errors import ModelError
from vl_lst.models.config import VisualConfig
from vl_lst.models.norm import RootMeanSquareNorm

__all__ = ["VisualEmbedding", "pool_grid"]

BOX_NUMBERS = 5  # x1, x2, y1, y2 and the area
ORDER_SEED = 20220613


def pool_grid(features_BINF: Tensor, grid: int, pooled_grid: int) -> Tensor:
    """Max-pool square grids of feature vectors: [B, I, N, F] to [B, I, M, F].

    Windows overlap if the sides do not divide (7 to 6: windows of 2x2 at stride 1).

    Args:
        features_BINF: Features as stored; N may hold several grids, one after the other.
        grid: Side of each grid.
        pooled_grid: Side of each pooled grid.
    """
    batch, images, tokens, channels = features_BINF.shape
    grid_XFgg = features_BINF.reshape(-1, grid, grid, channels).permute(0, 3, 1, 2)
    pooled_XFpp = F.adaptive_max_pool2d(grid_XFgg, (pooled_grid, pooled_grid))
    pooled = tokens // grid**2 * pooled_grid**2
    return pooled_XFpp.flatten(2).transpose(1, 2).reshape(batch, images, pooled, channels)


class VisualEmbedding(nn.Module):
    """Projection of features to the backbone's width, plus embeddings of image and position.

    token = RMS(Linear(feature)) + RMS(Linear(box, area)) + image order + token order

    The token order is a fixed random vector per grid position, the same for every image. It
    distinguishes positions, since the boxes of grid features are zeros. (In the reference these
    are rows added to the frozen vocabulary: N(0, 1), never trained.) It is drawn from a fixed seed,
    so checkpoints do not contain it.

    Args:
        config: Settings.
        width: D.
        epsilon: Epsilon of the norms.
    """

    order_MD: Tensor

    def __init__(self, config: VisualConfig, *, width: int, epsilon: float) -> None:
        super().__init__()
        self.grid = config.grid
        self.pooled_grid = config.pooled_grid
        self.stored_shape = torch.Size((config.tokens, config.channels))
        self.feature_projection = nn.Linear(config.channels, width)
        self.feature_norm = RootMeanSquareNorm(width, eps=epsilon)
        self.box_projection = nn.Linear(BOX_NUMBERS, width)
        self.box_norm = RootMeanSquareNorm(width, eps=epsilon)
        self.image_order = nn.Embedding(config.max_images, width)
        nn.init.normal_(self.image_order.weight, std=config.image_order_std)
        generator = torch.Generator().manual_seed(ORDER_SEED)
        # On the generator's device, whatever the default device.
        order_MD = torch.randn(config.pooled_tokens, width, generator=generator, device="cpu")
        device = self.image_order.weight.device
        self.register_buffer("order_MD", order_MD.to(device), persistent=False)

    def memory_parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """Return the part that memory is reported for."""
        return {"visual embedding": [self]}

    def forward(self, features_BINF: Tensor, boxes_BIM4: Tensor | None = None) -> Tensor:
        """Return the image tokens [B, V, D], image by image.

        Args:
            features_BINF: Features as stored.
            boxes_BIM4: (x1, x2, y1, y2) of each pooled token, which the reference implementation
                has for region features; `None` means zeros, as for grid features.

        Raises:
            ModelError: An example has more images than the model was built for, or the features
                have another shape.
        """
        images, max_images = features_BINF.shape[1], self.image_order.num_embeddings
        if images > max_images:
            raise ModelError(
                f"the model was built for at most {max_images} images per example: found {images}. "
                "Train a model on a task with that many images."
            )
        shape = features_BINF.shape[2:]
        if shape != self.stored_shape:
            raise ModelError(
                f"the features of an image have the shape {list(shape)}: expected "
                f"{list(self.stored_shape)} (tokens, channels), as the model was built for"
            )
        if self.pooled_grid is not None and self.grid is not None:
            features_BINF = pool_grid(features_BINF, self.grid, self.pooled_grid)
        dtype = self.feature_projection.weight.dtype
        tokens_BIMD: Tensor = self.feature_norm(self.feature_projection(features_BINF.to(dtype)))
        if boxes_BIM4 is None:
            # One vector for all tokens. Zeros still go through the projection, so that every
            # process of a distributed run has all parameters in its graph.
            positions = tokens_BIMD.new_zeros(1, 1, 1, BOX_NUMBERS)
        else:
            x1, x2, y1, y2 = boxes_BIM4.to(dtype).unbind(-1)
            positions = torch.stack((x1, x2, y1, y2, (y2 - y1) * (x2 - x1)), -1)
        # Added one after another, as in the reference: results are equal to the last bit.
        tokens_BIMD = tokens_BIMD + self.box_norm(self.box_projection(positions))
        image_order_I1D = self.image_order.weight[: tokens_BIMD.shape[1], None]
        tokens_BIMD = tokens_BIMD + image_order_I1D + self.order_MD
        return tokens_BIMD.flatten(1, 2)
