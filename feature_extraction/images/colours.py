"""Convert every colour mode that Pillow decodes to 8-bit RGB."""

from collections.abc import Callable

import numpy as np
from PIL import Image

__all__ = ["BACKGROUND", "rgb_converter"]

BACKGROUND = (255, 255, 255)

HIGH_BIT_DEPTH_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})


def rgb_converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return a function that converts `image`, or any crop of it, to RGB.

    Greyscale images with more than 8 bits are divided by their white point. For `I;16` modes it is
    65,535. For other modes it is the first of 1 (floating point only), 255 and 65,535 that no
    finite pixel exceeds, or else the largest finite pixel.
    """
    if image.mode in HIGH_BIT_DEPTH_MODES:
        white = _white_point(image)
        return lambda part: _scale_to_rgb(part, white)
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        return _composite_over_background
    return lambda part: part.convert("RGB")


def _white_point(image: Image.Image) -> float:
    if image.mode.startswith("I;16"):
        return 65535
    values = np.asarray(image)
    # With an infinite white point all other pixels would be black.
    largest = float(np.max(values, initial=0, where=np.isfinite(values)))
    candidates = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    return next((white for white in candidates if largest <= white), largest)


def _scale_to_rgb(part: Image.Image, white: float) -> Image.Image:
    values = np.nan_to_num(np.asarray(part, dtype=np.float32), posinf=white, neginf=0.0)
    grey = np.rint(np.clip(values / white, 0.0, 1.0) * 255.0).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _composite_over_background(part: Image.Image) -> Image.Image:
    coloured = part.convert("RGBA")
    picture = Image.new("RGB", part.size, BACKGROUND)
    picture.paste(coloured, mask=coloured.getchannel("A"))
    return picture
