"""Preprocessing settings and weights of a transformers checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from feature_extraction.encoders.checkpoint_files import (
    WEIGHTS_FILES,
    WEIGHTS_NAME,
    is_present,
    read_json_object,
    read_safetensors,
    weights_in_folder,
)
from feature_extraction.encoders.weights import (
    FILE_PREFIX,
    HUB_PREFIX,
    Normalisation,
    fetch_from_hub,
    parse_channel_values,
)
from feature_extraction.errors import EncoderError

__all__ = [
    "PREPROCESSING_NAMES",
    "VISION_PREFIX",
    "parse_image_size",
    "parse_normalisation",
    "read_preprocessing",
    "read_vision_state",
]

PREPROCESSING_NAMES = ("preprocessor_config.json", "processor_config.json")

VISION_PREFIX = "vision_model."


def read_preprocessing(folder: Path) -> tuple[dict[str, Any], Path]:
    """Read the settings of a checkpoint's image processor.

    Returns:
        The settings, and their file.

    Raises:
        EncoderError: There is no such file.
    """
    for path in (folder / name for name in PREPROCESSING_NAMES):
        if is_present(path):
            found = read_json_object(path)
            settings = found.get("image_processor", found)
            if not isinstance(settings, dict):
                raise EncoderError(f"{path}: image_processor is not a JSON object")
            return settings, path
    raise EncoderError(
        f"{folder} has no {PREPROCESSING_NAMES[0]}, which states the mean, standard deviation and "
        "size of the training images. Copy it from the source of the weights."
    )


def parse_normalisation(preprocessing: Mapping[str, Any], source: Path) -> Normalisation:
    """Return the mean and standard deviation of an image processor.

    Args:
        preprocessing: Settings of the image processor.
        source: File of the settings, for messages.

    Raises:
        EncoderError: The processor does not scale pixels to [0, 1].
    """
    factor = preprocessing.get("rescale_factor") or 1 / 255
    if not isinstance(factor, int | float):
        raise EncoderError(f"{source}: rescale_factor is {factor!r:.80}, expected a number")
    if preprocessing.get("do_rescale") is False or abs(factor * 255 - 1) > 1e-6:
        raise EncoderError(
            f"{source} does not scale pixels to [0, 1] before it normalises them: expected "
            "do_rescale with a rescale_factor of 1/255. This encoder cannot be used."
        )
    if preprocessing.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = preprocessing.get("image_mean"), preprocessing.get("image_std")
    return parse_channel_values(mean, str(source)), parse_channel_values(std, str(source))


def parse_image_size(preprocessing: Mapping[str, Any], config: Any, source: Path) -> int:
    """Return the image size of an encoder in pixels, after any cropping.

    Args:
        preprocessing: Settings of the image processor.
        config: Configuration of the model, for processors that do not state a size.
        source: File of the settings, for messages.

    Raises:
        EncoderError: The images are not square.
    """
    crop = preprocessing.get("crop_size")
    is_cropped = preprocessing.get("do_center_crop", crop is not None)
    size = crop if is_cropped else preprocessing.get("size")
    if isinstance(size, dict) and size.get("height") == size.get("width"):
        # None for processors that only have a `shortest_edge`.
        size = size.get("height")
    if size is None:
        size = getattr(config, "image_size", None)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise EncoderError(f"{source} has the image size {size}, expected a square")
    return size


def read_vision_state(source: str) -> tuple[str, dict[str, Tensor]]:
    """Read the weights of the vision part of a model.

    Args:
        source: File, folder, or `hub:` and a repository.

    Returns:
        Name of the weights in a spec, and tensors by name.

    Raises:
        EncoderError: The weights are missing, damaged, not safetensors, or cannot be downloaded.
    """
    if source.startswith(HUB_PREFIX):
        folder = fetch_from_hub(source.removeprefix(HUB_PREFIX), WEIGHTS_FILES)
        name, tensors = source, _read_folder(folder)
    elif Path(source).is_dir():
        name, tensors = FILE_PREFIX + WEIGHTS_NAME, _read_folder(Path(source))
    else:
        name, tensors = FILE_PREFIX + Path(source).name, read_safetensors(Path(source))
    vision = {key: t for key, t in tensors.items() if key.startswith(VISION_PREFIX)}
    return name, vision or tensors


def _read_folder(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in weights_in_folder(folder):
        tensors.update(read_safetensors(path))
    return tensors
