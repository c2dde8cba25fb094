"""Damaged photographs are reported only by this program, not by the decoders."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feature_extraction.errors import ImageError
from feature_extraction.images.decode import decode_image
from feature_extraction.images.decoder_messages import discard_decoder_messages


def damaged_tiff(path: Path, compression: str, mode: str) -> Path:
    """Write a TIFF of noise with flipped bits in its data, not in its header."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path, compression=compression)
    content = bytearray(path.read_bytes())
    for place in range(200, min(len(content) - 200, 1200), 37):
        content[place] ^= 0xFF
    path.write_bytes(content)
    return path


def test_libtiff_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    decode_image(damaged_tiff(tmp_path / "fax.tif", "group4", "1"), 32)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_image(damaged_tiff(tmp_path / "lzw.tif", "tiff_lzw", "RGB"), 32)
    assert capfd.readouterr().err == ""


def test_standard_error_is_restored(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with discard_decoder_messages():
            os.write(2, b"discarded")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    os.write(2, b"shown")
    assert capfd.readouterr().err == "shown"
