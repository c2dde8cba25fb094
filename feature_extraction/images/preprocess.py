"""Turn photographs of any shape into encoder inputs: one square, optionally followed by tiles.

`squash`       resize to the square and ignore the aspect ratio, as the paper does
`letterbox`    resize to fit inside the square, centre, and fill the rest with the background colour
`center-crop`  crop the largest centred square and resize it

All resizing is Pillow's antialiased bicubic resizing of 8-bit pixels. N x N tiles are cut from the
square that the same rule makes with N times the side. Pixels stay 8-bit until they are on the
encoder's device, where `feature_extraction.encoders.encoder` normalises them. This module does not
import torch, which would cost each decoding process several seconds and half a gigabyte.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from feature_extraction.images.colours import BACKGROUND
from feature_extraction.images.decode import Decoded
from feature_extraction.spec import ResizeRule

# K squares per image, S square size

__all__ = ["fit_square", "prepare"]


def prepare(decoded: Decoded, side: int, rule: ResizeRule, crops: int) -> NDArray[np.uint8]:
    """Return all input squares of one photograph.

    Args:
        decoded: The photograph, decoded for squares of `crops * side` pixels.
        side: Side of each square in pixels.
        rule: `squash`, `letterbox` or `center-crop`; see the module docstring.
        crops: 1 for only the whole photograph; N for the whole and then N x N tiles, row by row.

    Returns:
        uint8 `[K, 3, S, S]`.
    """
    whole_13SS = fit_square(decoded, side, rule)[None]
    if crops == 1:
        return whole_13SS
    large = fit_square(decoded, crops * side, rule)
    rows_of_tiles = large.reshape(3, crops, side, crops, side).transpose(1, 3, 0, 2, 4)
    return np.concatenate((whole_13SS, rows_of_tiles.reshape(-1, 3, side, side)))


def fit_square(decoded: Decoded, side: int, rule: ResizeRule) -> NDArray[np.uint8]:
    """Return one square of the whole photograph.

    Args:
        decoded: The photograph.
        side: Side of the square in pixels.
        rule: `squash`, `letterbox` or `center-crop`; see the module docstring.

    Returns:
        uint8 `[3, side, side]`.
    """
    image = decoded.image
    if rule == "squash":
        square = image.resize((side, side), Image.Resampling.BICUBIC)
    elif rule == "letterbox":
        square = _letterbox(decoded, side)
    else:
        square = _center_crop(decoded, side)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _letterbox(decoded: Decoded, side: int) -> Image.Image:
    # Downscaling may have lost a fraction of a pixel, so use the size of the photograph.
    longest = max(decoded.height, decoded.width)
    width = max(1, round(side * decoded.width / longest))
    height = max(1, round(side * decoded.height / longest))
    square = Image.new("RGB", (side, side), BACKGROUND)
    inner = decoded.image.resize((width, height), Image.Resampling.BICUBIC)
    square.paste(inner, ((side - width) // 2, (side - height) // 2))
    return square


def _center_crop(decoded: Decoded, side: int) -> Image.Image:
    # Cropping while resizing limits memory to the size of the result, even for thin photographs.
    image = decoded.image
    shortest = min(decoded.height, decoded.width)
    width = image.width * shortest / decoded.width
    height = image.height * shortest / decoded.height
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (left, top, left + width, top + height)
    return image.resize((side, side), Image.Resampling.BICUBIC, box=box)
