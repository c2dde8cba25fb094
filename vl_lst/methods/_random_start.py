"""Random initial weights of the ladder and of side-tuning, which differ in their rungs alone."""

from typing import Literal

from pydantic import BaseModel

from vl_lst.models.initialisation.small_weights import draw_small_weights
from vl_lst.models.ladder.model import LadderModel

__all__ = ["RandomStart", "draw_weights"]


class RandomStart(BaseModel):
    """Options of a side network that starts at random.

    Args:
        random_weights: Scale of the random initial weights. `by_width` divides it by the square
            root of the width that a weight reads, with biases of that scale and relative positions
            at zero. `small`, as in the paper's code for language tasks, draws all weights with a
            standard deviation of 0.01 and relative positions with 1, with biases at zero. `None`
            means `small` for a model of text alone and `by_width` for one that sees images.
    """

    random_weights: Literal["by_width", "small"] | None = None


def draw_weights(model: LadderModel, options: RandomStart) -> None:
    """Draw the weights of the side network again, unless those it has, drawn by width, are wanted.

    Args:
        model: Model, whose side network is changed in place.
        options: Options of its method.
    """
    sees_images = model.visual is not None or model.backbone_reads_images
    chosen = options.random_weights or ("by_width" if sees_images else "small")
    if chosen == "small":
        draw_small_weights(model.side)
