"""Small pictures of noise, different from each other."""

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["write_photographs"]


def write_photographs(folder: Path, count: int) -> Path:
    """Make a folder with `photo0.png` and so on."""
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"photo{number}.png")
    return folder
