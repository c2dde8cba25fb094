"""From every colour mode Pillow decodes to 8-bit RGB."""

from collections.abc import Callable

import numpy as np
from PIL import Image

__all__ = ["BACKGROUND", "rgb_converter"]

BACKGROUND = (255, 255, 255)

DEEP_GREY = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})


def rgb_converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return what converts `image`, or any part cropped from it, to RGB.

    Deep grey is scaled by the smallest of these white points that holds its largest finite value: 1
    (only floating point), 255, 65,535, the largest value itself. Modes `I;16` always have 65,535.
    """
    if image.mode in DEEP_GREY:
        white = _white_point(image)
        return lambda part: _from_deep_grey(part, white)
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        return _over_background
    return lambda part: part.convert("RGB")


def _white_point(image: Image.Image) -> float:
    if image.mode.startswith("I;16"):
        return 65535
    values = np.asarray(image)
    # A single infinite value would make all others black.
    largest = float(np.max(values, initial=0, where=np.isfinite(values)))
    candidates = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    return next((white for white in candidates if largest <= white), largest)


def _from_deep_grey(part: Image.Image, white: float) -> Image.Image:
    values = np.nan_to_num(np.asarray(part, dtype=np.float32), posinf=white, neginf=0.0)
    grey = np.rint(np.clip(values / white, 0.0, 1.0) * 255.0).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _over_background(part: Image.Image) -> Image.Image:
    coloured = part.convert("RGBA")
    picture = Image.new("RGB", part.size, BACKGROUND)
    picture.paste(coloured, mask=coloured.getchannel("A"))
    return picture
