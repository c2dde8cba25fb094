"""From a photograph of any shape to the squares a tower sees: one, or one and its tiles.

`squash`       resized to the square without keeping the aspect ratio: the paper's rule
`letterbox`    resized to fit inside, centred, the rest filled with the background colour
`center-crop`  the largest centred square, resized

All resize bicubically with antialiasing, as Pillow does on 8-bit pixels. Tiles are cut from the
square that the same rule makes with as many times the side. Pixels stay 8-bit until the tower's
device, where `normalise` does what torchvision's ToTensor and Normalize do. Nothing here imports
torch: decoding processes would need seconds and half a gigabyte each for it.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from feature_extraction.images.decode import BACKGROUND, Decoded
from feature_extraction.spec import ResizeRule

if TYPE_CHECKING:
    from torch import Tensor


# B images, K squares of one image, S side of a square

__all__ = ["fit_square", "normalise", "prepare"]


def prepare(decoded: Decoded, side: int, rule: ResizeRule, crops: int) -> NDArray[np.uint8]:
    """Make all that a tower sees of one photograph.

    Args:
        decoded: The photograph, decoded for squares of `crops * side` pixels.
        side: Of each square, in pixels.
        rule: How the photograph becomes a square; see this module's head.
        crops: 1 for the whole photograph alone; N for that and then N x N tiles, row by row.

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
    """Make the square a tower sees.

    Args:
        decoded: An RGB picture and the size of the photograph it was decoded from.
        side: Of the square, in pixels.
        rule: How; see this module's head.

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


def normalise(pixels_B3SS: "Tensor", mean_311: "Tensor", std_311: "Tensor") -> "Tensor":
    """Scale 8-bit RGB to [0, 1], subtract the mean and divide by the deviation, in float32.

    Args:
        pixels_B3SS: uint8.
        mean_311: Of each channel, float32 on the pixels' device.
        std_311: Of each channel, likewise.
    """
    return pixels_B3SS.float().div(255).sub_(mean_311).div_(std_311)


def _letterbox(decoded: Decoded, side: int) -> Image.Image:
    # The photograph's own shape counts: a reduced picture may have lost a fraction of a pixel.
    longest = max(decoded.height, decoded.width)
    width = max(1, round(side * decoded.width / longest))
    height = max(1, round(side * decoded.height / longest))
    square = Image.new("RGB", (side, side), BACKGROUND)
    inner = decoded.image.resize((width, height), Image.Resampling.BICUBIC)
    square.paste(inner, ((side - width) // 2, (side - height) // 2))
    return square


def _center_crop(decoded: Decoded, side: int) -> Image.Image:
    # Cropping while resizing keeps memory at the result's size, however thin the photograph.
    image = decoded.image
    shortest = min(decoded.height, decoded.width)
    width = image.width * shortest / decoded.width
    height = image.height * shortest / decoded.height
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (left, top, left + width, top + height)
    return image.resize((side, side), Image.Resampling.BICUBIC, box=box)
