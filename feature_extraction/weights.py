"""Weights of a vision tower: by tag, from a safetensors file, or random by name.

Only safetensors files are read. Other checkpoint files are pickles, which can run any code.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import resize_pos_embed
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from feature_extraction.errors import EncoderError
from feature_extraction.towers import CONFIG_NAME, Normalisation, normalisation_of, read_config

__all__ = ["FILE_PREFIX", "RANDOM", "TowerWeights", "read_weights"]

RANDOM = "random"
FILE_PREFIX = "file:"
QUICK_GELU_SUFFIX = "-quickgelu"
VISUAL_PREFIX = "visual."


@dataclass(frozen=True, slots=True)
class TowerWeights:
    """The image tower's part of a checkpoint.

    Args:
        name: What a spec calls them: a tag, `random`, or `file:` and the file's name.
        state: Tensors by their name inside the tower; `None` leaves the tower as initialised.
        normalisation: Mean and standard deviation they were trained with, where known.
    """

    name: str
    state: Mapping[str, Tensor] | None
    normalisation: Normalisation | None = None

    def load_into(self, visual: nn.Module) -> str:
        """Copy the weights into a tower, positions resized to its grid.

        Returns:
            SHA-256 of the weights as they came, before any resizing: the same for one checkpoint
            whatever file or image size it is used with.

        Raises:
            EncoderError: They are of another architecture.
        """
        if self.state is None:
            return _state_sha256(visual.state_dict())
        prefixed = {VISUAL_PREFIX + key: value for key, value in self.state.items()}
        holder = nn.Module()
        holder.visual = visual
        resize_pos_embed(prefixed, holder)
        state = {key.removeprefix(VISUAL_PREFIX): value for key, value in prefixed.items()}
        try:
            visual.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise EncoderError(
                f"the weights {self.name} do not fit the encoder: {_first_lines(str(error))}. "
                "Name the encoder they were trained for."
            ) from None
        return _state_sha256(self.state)


def read_weights(source: str | Path, model: str | None, *, quick_gelu: bool | None) -> TowerWeights:
    """Find and read weights, and make sure of their activation.

    Args:
        source: A tag of open_clip's, a `.safetensors` file, or `random`.
        model: open_clip's name of the architecture; `None` for a tower it has no tags for.
        quick_gelu: Whether the tower they are for uses QuickGELU; `None` where it has neither
            that nor GELU to choose between.

    Raises:
        EncoderError: They are not known, not safe to read, damaged, cannot be fetched, or were
            trained with the other activation.
    """
    if source == RANDOM:
        return TowerWeights(RANDOM, None)
    base = model.removesuffix(QUICK_GELU_SUFFIX) if model else ""
    tag = open_clip.get_pretrained_cfg(base, str(source))
    if tag:
        _check_activation(f"tag {source}", bool(tag.get("quick_gelu")), quick_gelu=quick_gelu)
        file = _fetch(str(source), tag)
        return TowerWeights(str(source), _read_file(file), normalisation_of(tag))
    path = Path(source)
    if not path.is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(base)) or "none"
        raise EncoderError(
            f"weights {source!s}: no such file, and no tag of this encoder (its tags: {tags}). "
            f"Give a tag, a .safetensors file, or {RANDOM!r}."
        )
    neighbour = path.parent / CONFIG_NAME
    if neighbour.is_file():
        config = read_config(neighbour)["model_cfg"]
        _check_activation(
            f"file {path}, by the {CONFIG_NAME} beside it,",
            bool(config.get("quick_gelu")),
            quick_gelu=quick_gelu,
        )
    return TowerWeights(FILE_PREFIX + path.name, _read_file(path))


def _fetch(tag: str, pretrained: Mapping[str, Any]) -> Path:
    try:
        return Path(open_clip.download_pretrained(pretrained))
    except (OSError, RuntimeError, ValueError) as error:
        raise EncoderError(
            f"the weights {tag} are not on this machine and could not be fetched "
            f"({_first_lines(str(error))}). Connect to the network, or give --weights a "
            ".safetensors file copied from elsewhere."
        ) from error


def _read_file(path: Path) -> Mapping[str, Tensor]:
    if path.suffix != ".safetensors":
        raise EncoderError(
            f"{path} is not a safetensors file. Pickled checkpoints (.pt, .pth, .bin) can run any "
            "code when read, so they are refused; convert it once, where you trust it: "
            "safetensors.torch.save_file(state_dict, 'NAME.safetensors')"
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise EncoderError(f"{path} is damaged or cut short ({error}); fetch it again") from None
    state = {
        key.removeprefix(VISUAL_PREFIX): tensor
        for key, tensor in tensors.items()
        if key.startswith(VISUAL_PREFIX)
    }
    if not state:
        found = ", ".join(list(tensors)[:3]) or "nothing"
        raise EncoderError(
            f"{path} has no tensors named {VISUAL_PREFIX}... (it has {found}); expected an "
            "open_clip checkpoint"
        )
    return state


def _check_activation(what: str, trained_with: bool, *, quick_gelu: bool | None) -> None:
    if quick_gelu is not None and trained_with != quick_gelu:
        names = {True: "QuickGELU", False: "GELU"}
        raise EncoderError(
            f"the weights ({what}) were trained with {names[trained_with]}, the encoder computes "
            f"{names[quick_gelu]}: its features would be silently wrong. Choose weights or an "
            "encoder that agree."
        )


def _state_sha256(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _first_lines(text: str, most: int = 3) -> str:
    return " ".join(line.strip() for line in text.splitlines()[:most])
