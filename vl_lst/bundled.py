"""Paths of the pretrained models that are bundled with the package."""

from collections.abc import Mapping
from pathlib import Path

__all__ = ["ASSETS", "CLIP_FOLDER", "ENCODER_FOLDERS", "IMAGE_BACKBONE_FOLDER", "T5_FOLDER"]

ASSETS = Path(__file__).resolve().parent / "demo" / "assets"
CLIP_FOLDER = ASSETS / "clip"
T5_FOLDER = ASSETS / "t5"
# Its tokens of an image are made from the features of the CLIP.
IMAGE_BACKBONE_FOLDER = ASSETS / "image_t5"
# Folders of the bundled image encoders by their names in feature files.
ENCODER_FOLDERS: Mapping[str, Path] = {"demo": CLIP_FOLDER, "demo-image": IMAGE_BACKBONE_FOLDER}
