"""Find an image encoder by its name or its folder.

RN101, ViT-B-16, ...         a row of the encoder table
NAME, open_clip:NAME         any model of open_clip
timm:NAME, timm:OWNER/NAME   any model of timm, or a repository in timm's format
hf:OWNER/NAME                a vision model or vision-language model of transformers on the hub
FOLDER                       an encoder on disk, in the format of one of the three libraries, or
                             of `feature_extraction.encoders.projected`
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch

from eval.text import did_you_mean
from feature_extraction.encoders import huggingface, timm
from feature_extraction.encoders.architecture import Architecture
from feature_extraction.encoders.checkpoint_files import read_json_object
from feature_extraction.encoders.huggingface import HuggingFaceArchitecture
from feature_extraction.encoders.huggingface_config import CONFIG_NAME
from feature_extraction.encoders.huggingface_files import PREPROCESSING_NAMES
from feature_extraction.encoders.image_tokens import IMAGE_TOKENS
from feature_extraction.encoders.library_guard import guard_library_call
from feature_extraction.encoders.open_clip import OpenClipArchitecture
from feature_extraction.encoders.open_clip_weights import CONFIG_NAME as OPEN_CLIP_CONFIG
from feature_extraction.encoders.projected import CONFIG_NAME as PROJECTED_CONFIG
from feature_extraction.encoders.projected import ProjectedArchitecture
from feature_extraction.encoders.table import ENCODERS, TABLE_IMAGE_SIZE, VISION_LANGUAGE_EXAMPLE
from feature_extraction.encoders.timm import TimmArchitecture
from feature_extraction.encoders.vision_language import VisionLanguageArchitecture
from feature_extraction.encoders.weights import HUB_PREFIX, fetch_from_hub
from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

# S image size

__all__ = ["find_architecture", "is_known_name", "output_shape"]

OPEN_CLIP_PREFIX = "open_clip:"
PREFIXES = (OPEN_CLIP_PREFIX, timm.PREFIX, huggingface.PREFIX)


def find_architecture(encoder: str | Path) -> Architecture:
    """Return the architecture of an encoder.

    Args:
        encoder: Name or folder in one of the forms listed in the module docstring; the first form
            that matches is used.

    Raises:
        EncoderError: There is no such encoder.
    """
    name = str(encoder)
    if name in ENCODERS:
        row = ENCODERS[name]
        architecture: Architecture
        if row.model.startswith(timm.PREFIX):
            model = f"{row.model.removeprefix(timm.PREFIX)}.{row.weights}"
            architecture = TimmArchitecture.from_name(model, name)
        else:
            architecture = OpenClipArchitecture.from_name(row.model, name, row.weights)
        return dataclasses.replace(architecture, image_size=TABLE_IMAGE_SIZE)
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return _find_in_library(prefix, name.removeprefix(prefix), name)
    if name in open_clip.list_models():
        return OpenClipArchitecture.from_name(name, name)
    # An empty name would be the current folder.
    if name and Path(encoder).is_dir():
        return _read_folder(Path(encoder))
    known = {*ENCODERS, *open_clip.list_models()}
    raise EncoderError(
        f"no encoder {name!r}: expected one of: {', '.join(ENCODERS)}; another model of "
        "open_clip; timm:NAME; hf:OWNER/NAME; or a folder in the format of one of these libraries"
        f"{did_you_mean(name, known)}"
    )


def is_known_name(encoder: str) -> bool:
    """Whether `find_architecture` can find an encoder by name, without a folder."""
    return encoder in ENCODERS or encoder.startswith(PREFIXES) or encoder in open_clip.list_models()


def output_shape(
    architecture: Architecture, side: int, layer: Layer
) -> tuple[tuple[int, int], int]:
    """Return the shape of an encoder's features, without computing features.

    Args:
        architecture: The encoder.
        side: Image size in pixels.
        layer: Layer whose features are requested.

    Returns:
        Rows and columns of the grid, and the number of channels.

    Raises:
        EncoderError: The encoder cannot take images of this size, or has no such features.
    """
    name, default = architecture.name, architecture.image_size
    if layer not in architecture.layers:
        raise EncoderError(_has_no_layer(architecture, layer))
    advice = f"use its default --image-size {default}, or " if side != default else ""
    others = "the other layer or another encoder" if architecture.layers[1:] else "another encoder"

    def has_no_features(reason: str) -> EncoderError:
        return EncoderError(
            f"the encoder {name} has no {layer} features for images of {side} pixels ({reason}): "
            f"{advice}use {others}"
        )

    if side != default:
        with guard_library_call(has_no_features):
            cell = architecture.cell_size()
        if side < cell or side % cell:
            near = max(cell, round(side / cell) * cell)
            raise EncoderError(
                f"image size {side} does not fit {name}, whose grid cells are {cell} pixels wide: "
                f"use a multiple of {cell}, such as {near}"
            )
    with torch.device("meta"):
        module = architecture.build(side).eval()
        pixels_13SS = torch.empty(1, 3, side, side)
    with guard_library_call(has_no_features):
        _, channels, rows, columns = architecture.features(module, pixels_13SS, layer).shape
    return (rows, columns), channels


def _has_no_layer(architecture: Architecture, layer: Layer) -> str:
    """Return the message for a layer that an encoder does not have."""
    name, known = architecture.name, " or ".join(architecture.layers)
    if layer != "language":
        return f"the encoder {name} has no {layer} features: use --layer {known}"
    return (
        f"the encoder {name} has no language features, the tokens that a language model reads: use "
        f"--layer {known}, or a vision-language model whose language model is an encoder-decoder, "
        f"such as {VISION_LANGUAGE_EXAMPLE} (model_type {' or '.join(IMAGE_TOKENS)})"
    )


def _find_in_library(prefix: str, model: str, name: str) -> Architecture:
    if model and Path(model).is_dir():
        return _read_folder(Path(model))
    if prefix == timm.PREFIX:
        return TimmArchitecture.from_name(model, name)
    if prefix == huggingface.PREFIX:
        folder = fetch_from_hub(model, [CONFIG_NAME, *PREPROCESSING_NAMES])
        fields = read_json_object(folder / CONFIG_NAME)
        return _huggingface_kind(fields).from_files(folder, name, HUB_PREFIX + model, fields)
    return OpenClipArchitecture.from_name(model, name)


def _read_folder(folder: Path) -> Architecture:
    """Read a folder in the format that its configuration belongs to."""
    if (folder / PROJECTED_CONFIG).exists():
        inner = _read_folder(ProjectedArchitecture.encoder_folder(folder))
        return ProjectedArchitecture.from_folder(folder, inner)
    if (folder / OPEN_CLIP_CONFIG).exists():
        return OpenClipArchitecture.from_folder(folder)
    path = folder / CONFIG_NAME
    if not path.exists():
        raise EncoderError(
            f"no {OPEN_CLIP_CONFIG} and no {path.name} in {folder}: the folder of an encoder has "
            "one of them, and its weights as safetensors"
        )
    fields = read_json_object(path)
    if "architecture" in fields:
        return TimmArchitecture.from_folder(folder)
    return _huggingface_kind(fields).from_files(folder, folder.resolve().name, folder, fields)


def _huggingface_kind(fields: Mapping[str, Any]) -> type[HuggingFaceArchitecture]:
    """Return the kind of architecture for the fields of a `config.json` of transformers."""
    is_vision_language = fields.get("model_type") in tuple(IMAGE_TOKENS)
    return VisionLanguageArchitecture if is_vision_language else HuggingFaceArchitecture
