"""Configurations of backbones by name, and backbones with random weights."""

from pathlib import Path
from typing import Any

import torch

from feature_extraction.encoders.library_guard import guard_library_call
from vl_lst.backbones.families import find_family
from vl_lst.backbones.family import Family
from vl_lst.backbones.folder import (
    CONFIG_NAME,
    GENERATION_NAME,
    backbone_folder,
    build_config,
    cannot_build,
    model_errors,
    read_config,
)
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.published import PUBLISHED
from vl_lst.bundled import BACKBONE_FOLDERS
from vl_lst.errors import ModelError

__all__ = ["backbone_config", "known_family", "own_image_tokens", "random_backbone"]


def backbone_config(name: str, *, vocabulary: int | None = None) -> tuple[Any, Family]:
    """Return the configuration of a backbone, without network access for those of `PUBLISHED`.

    Args:
        name: Hugging Face model ID, a local directory, or `demo` (bundled).
        vocabulary: Vocabulary size; `None` takes the published one.

    Returns:
        The configuration of the language model, and its family.

    Raises:
        ModelError: There is no such model, or it is of no known family.
    """
    if (published := PUBLISHED.get(name)) is not None:
        family = find_family(published["model_type"])
        config = build_config(family, dict(published), name)
    else:
        config, family = _config_from(name)
    if vocabulary is not None:
        family.set_vocabulary_size(config, vocabulary)
    return config, family


def own_image_tokens(name: str) -> tuple[int, int] | None:
    """Return the number and width of the tokens that a backbone reads of each image.

    Args:
        name: See `backbone_config`.

    Returns:
        The two numbers; `None` if the backbone reads text alone.

    Raises:
        ModelError: See `backbone_config`.
    """
    config, family = backbone_config(name)
    if not family.reads_images:
        return None
    return family.tokens_per_image(config), family.encoder_sizes(config).width


def known_family(name: str) -> Family | None:
    """Return the family of a backbone if its configuration is on this machine.

    Args:
        name: See `backbone_config`.

    Returns:
        The family; `None` if the backbone must be downloaded first, or its configuration cannot be
        read, which loading the backbone explains.
    """
    if name not in PUBLISHED and name not in BACKBONE_FOLDERS and not Path(name).is_dir():
        return None
    try:
        return backbone_config(name)[1]
    except ModelError:
        return None


def random_backbone(
    config: Any, family: Family, *, dtype: torch.dtype = torch.float32
) -> FrozenBackbone:
    """Return a backbone with random weights, on torch's default device.

    Args:
        config: Configuration from `backbone_config`.
        family: Its family.
        dtype: Type of the weights.

    Raises:
        ModelError: The model cannot be built, or is larger than this machine's memory.
    """
    with guard_library_call(cannot_build(config)):
        return FrozenBackbone(family.build_random(config, dtype), family)


def _letters(name: str) -> list[str]:
    """Return what stays the same if letters of a name are transposed or capital."""
    return sorted(name.lower())


def _config_from(name: str) -> tuple[Any, Family]:
    # Before asking the hub, which takes half a minute to fail without a network. Names that are
    # only similar may be of other models, such as another size.
    meant = next((each for each in PUBLISHED if _letters(each) == _letters(name)), None)
    if meant is not None and not Path(name).exists():
        raise ModelError(f"no backbone {name!r}; did you mean {meant}?")
    expected = (
        f"expected {' or '.join(BACKBONE_FOLDERS)} (bundled), a folder with a config.json, a "
        f"Hugging Face model ID, or one of {', '.join(PUBLISHED)}"
    )
    with model_errors(f"no configuration of a backbone {name!r}, {expected}"):
        folder = BACKBONE_FOLDERS.get(name) or backbone_folder(name, (CONFIG_NAME, GENERATION_NAME))
    with model_errors(f"cannot read the backbone {name!r}"):
        return read_config(folder)
