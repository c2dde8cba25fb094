"""Small images of random pixels."""

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["write_photographs"]


def write_photographs(folder: Path, count: int) -> Path:
    """Write `photo0.png`, `photo1.png`, ... into a new folder."""
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"photo{number}.png")
    return folder
