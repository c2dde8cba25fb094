"""Pretrained weights and configurations of open_clip."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import timm
from open_clip.model import resize_pos_embed
from torch import Tensor, nn

from feature_extraction.encoders.checkpoint_files import (
    check_numbers,
    read_json_object,
    read_safetensors,
)
from feature_extraction.encoders.library_guard import guard_library_call
from feature_extraction.encoders.weights import Normalisation, mismatch_error, parse_channel_values
from feature_extraction.errors import EncoderError

__all__ = [
    "CONFIG_NAME",
    "QUICK_GELU_SUFFIX",
    "fetch",
    "has_activation_choice",
    "is_resnet",
    "list_tags",
    "load_state",
    "matching_tags",
    "parse_normalisation",
    "pretrained_config",
    "read_config",
    "read_visual_state",
]

CONFIG_NAME = "open_clip_config.json"
QUICK_GELU_SUFFIX = "-quickgelu"
VISUAL_PREFIX = "visual."


def read_config(path: Path) -> dict[str, Any]:
    """Read an `open_clip_config.json`.

    Returns:
        The JSON object; `model_cfg` in it has `embed_dim` and `vision_cfg`.

    Raises:
        EncoderError: The file cannot be read, or is not in open_clip's format.
    """
    config = read_json_object(path)
    model = config.get("model_cfg")
    if (
        not isinstance(model, dict)
        or not isinstance(model.get("vision_cfg"), dict)
        or not isinstance(model.get("embed_dim"), int)
    ):
        raise EncoderError(
            f"{path} has no model_cfg.vision_cfg or no model_cfg.embed_dim: expected the format "
            "of open_clip"
        )
    check_numbers({"embed_dim": model["embed_dim"], "vision_cfg": model["vision_cfg"]}, path)
    trunk = model["vision_cfg"].get("timm_model_name")
    # timm would download `hf-hub:OWNER/NAME` and read `local-dir:FOLDER`.
    if trunk is not None and not (isinstance(trunk, str) and timm.is_model(trunk)):
        raise EncoderError(f"{path}: this version of timm has no architecture {trunk!r:.80}")
    if not isinstance(config.get("preprocess_cfg", {}), dict):
        raise EncoderError(f"{path}: preprocess_cfg is not a JSON object")
    return config


def parse_normalisation(preprocess: Mapping[str, Any]) -> Normalisation:
    """Return the mean and standard deviation of a preprocessing configuration of open_clip."""
    mean = preprocess.get("mean", open_clip.OPENAI_DATASET_MEAN)
    std = preprocess.get("std", open_clip.OPENAI_DATASET_STD)
    return parse_channel_values(mean, CONFIG_NAME), parse_channel_values(std, CONFIG_NAME)


def list_tags(model: str | None) -> list[str]:
    """Return the tags of all pretrained weights of a model."""
    names = (model, model.removesuffix(QUICK_GELU_SUFFIX)) if model else ()
    tags = (tag for name in names for tag in open_clip.list_pretrained_tags_by_model(name))
    return list(dict.fromkeys(tags))


def matching_tags(model: str | None, config: Mapping[str, Any]) -> list[str]:
    """Return the tags of the pretrained weights that were trained with the model's activation."""
    if not has_activation_choice(config):
        return list_tags(model)
    quick_gelu = bool(config.get("quick_gelu"))
    return [
        tag
        for tag in list_tags(model)
        if bool(pretrained_config(model, tag).get("quick_gelu")) == quick_gelu
    ]


def pretrained_config(model: str | None, tag: str) -> Mapping[str, Any]:
    """Return open_clip's record of pretrained weights; empty for an unknown tag."""
    if model is None:
        return {}
    found: Mapping[str, Any] = open_clip.get_pretrained_cfg(
        model.removesuffix(QUICK_GELU_SUFFIX), tag
    ) or open_clip.get_pretrained_cfg(model, tag)
    return found


def fetch(tag: str, pretrained: Mapping[str, Any]) -> Path:
    """Download pretrained weights through open_clip, unless they are in its cache.

    Args:
        tag: Tag of the weights, for the message.
        pretrained: open_clip's record of them.

    Raises:
        EncoderError: The download failed.
    """

    def cannot_fetch(reason: str) -> EncoderError:
        return EncoderError(
            f"the weights {tag} are not on this machine and could not be downloaded ({reason}). "
            "Connect to the network, or give --weights a .safetensors file copied from another "
            "machine."
        )

    with guard_library_call(cannot_fetch, is_download=True):
        return Path(open_clip.download_pretrained(pretrained))


def read_visual_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of the image tower from a checkpoint of open_clip.

    Raises:
        EncoderError: The file is missing, damaged, not safetensors, or not in open_clip's format.
    """
    tensors = read_safetensors(path)
    state = {
        key.removeprefix(VISUAL_PREFIX): tensor
        for key, tensor in tensors.items()
        if key.startswith(VISUAL_PREFIX)
    }
    if not state:
        found = ", ".join(list(tensors)[:3]) or "nothing"
        raise EncoderError(
            f"{path} has no tensors named {VISUAL_PREFIX}... (found {found}): expected an "
            "open_clip checkpoint"
        )
    return state


def load_state(visual: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Copy weights into an image tower; position embeddings are resized to its grid.

    Raises:
        EncoderError: The weights belong to another architecture.
    """
    prefixed = {VISUAL_PREFIX + key: value for key, value in state.items()}
    holder = nn.Module()
    holder.visual = visual
    with guard_library_call(lambda reason: mismatch_error(name, reason)):
        resize_pos_embed(prefixed, holder)
        resized = {key.removeprefix(VISUAL_PREFIX): value for key, value in prefixed.items()}
        visual.load_state_dict(resized, strict=True)


def is_resnet(vision: Mapping[str, Any]) -> bool:
    """Whether a `vision_cfg` describes one of open_clip's own ResNets."""
    return isinstance(vision.get("layers"), list | tuple)


def has_activation_choice(config: Mapping[str, Any]) -> bool:
    """Whether `quick_gelu` has an effect: ResNets use ReLU, models of timm their own activation."""
    vision = config["vision_cfg"]
    return "timm_model_name" not in vision and not is_resnet(vision)
