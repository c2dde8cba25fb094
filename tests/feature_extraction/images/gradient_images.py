"""Helpers for tests that write, decode and compare images."""

import struct
import zlib
from pathlib import Path

import numpy as np

from feature_extraction.images.decode import decode_image

__all__ = ["decoded", "gradient", "png_chunk"]


def gradient(height: int, width: int) -> np.ndarray:
    """Return RGB pixels whose corners and channels all differ."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rows * 255 // height, columns * 255 // width, (rows + columns) % 256]
    return np.stack(channels, axis=-1).astype(np.uint8)


def decoded(path: Path, side: int = 32) -> np.ndarray:
    """Return the pixels of an image file."""
    return np.asarray(decode_image(path, side).image)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file with its checksum."""
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
