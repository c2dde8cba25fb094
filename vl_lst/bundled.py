"""Paths of the pretrained models and the recipes that are bundled with the package."""

from collections.abc import Mapping
from pathlib import Path

__all__ = [
    "ASSETS",
    "BACKBONE_FOLDERS",
    "CLIP_FOLDER",
    "DEMO",
    "DEMO_IMAGE",
    "ENCODER_FOLDERS",
    "IMAGE_BACKBONE_FOLDER",
    "PRETRAINING_TEXT",
    "T5_FOLDER",
    "bundled_recipes",
    "recipe_path",
]

ASSETS = Path(__file__).resolve().parent / "demo" / "assets"
CLIP_FOLDER = ASSETS / "clip"
T5_FOLDER = ASSETS / "t5"
# Lines like those that both backbones were pretrained on, and that neither has read.
PRETRAINING_TEXT = ASSETS / "pretraining.txt"
# Its tokens of an image are made from the features of the CLIP.
IMAGE_BACKBONE_FOLDER = ASSETS / "image_t5"

# Names of the bundled models: a backbone that reads text, and one that reads images.
DEMO = "demo"
DEMO_IMAGE = "demo-image"
BACKBONE_FOLDERS: Mapping[str, Path] = {DEMO: T5_FOLDER, DEMO_IMAGE: IMAGE_BACKBONE_FOLDER}
# The image encoder of each, by its name in feature files.
ENCODER_FOLDERS: Mapping[str, Path] = {DEMO: CLIP_FOLDER, DEMO_IMAGE: IMAGE_BACKBONE_FOLDER}

RECIPES = Path(__file__).resolve().parent / "recipes"
RECIPE_SUFFIX = ".yaml"


def bundled_recipes() -> list[str]:
    """Return the names of the bundled recipes."""
    return sorted(path.stem for path in RECIPES.glob(f"*{RECIPE_SUFFIX}"))


def recipe_path(name: str) -> Path:
    """Return the path of a bundled recipe."""
    return RECIPES / f"{name}{RECIPE_SUFFIX}"
