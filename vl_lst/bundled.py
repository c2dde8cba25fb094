"""Paths of the pretrained models that are bundled with the package."""

from pathlib import Path

__all__ = ["ASSETS", "CLIP_FOLDER", "T5_FOLDER"]

ASSETS = Path(__file__).resolve().parent / "demo" / "assets"
CLIP_FOLDER = ASSETS / "clip"
T5_FOLDER = ASSETS / "t5"
