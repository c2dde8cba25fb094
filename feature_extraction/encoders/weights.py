"""What reading weights of vision towers has in common, whatever library built the tower."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn

from feature_extraction.encoders.library_calls import library_call
from feature_extraction.errors import EncoderError

__all__ = [
    "FILE_PREFIX",
    "HUB_PREFIX",
    "RANDOM",
    "LoadedTower",
    "Normalisation",
    "fetch_from_hub",
    "require_same_size",
    "seeded",
    "state_sha256",
    "three_numbers",
]

RANDOM = "random"
FILE_PREFIX = "file:"
HUB_PREFIX = "hub:"

MAX_RESIZED_POSITIONS = 2**26

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTower:
    """A tower with its weights.

    Args:
        module: The network, its positions fitted to the image size that was asked for.
        weights: What a spec calls the weights: a tag, `random`, `file:` and the
            file's name, or `hub:` and the repository.
        weights_sha256: Hash of the weights as they came, before any resizing: the same for one
            checkpoint whatever file or image size it is used with.
        normalisation: Mean and standard deviation the weights were trained with.
    """

    module: nn.Module
    weights: str
    weights_sha256: str
    normalisation: Normalisation


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash the names, types, shapes and values of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def seeded() -> Iterator[None]:
    """Initialise towers alike every time; the caller's random numbers are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def fetch_from_hub(repository: str, files: Sequence[str]) -> Path:
    """Fetch files of a Hugging Face repository, or find them in its cache.

    Args:
        repository: `OWNER/NAME`, and `@REVISION` behind it where another than the newest is meant.
        files: Names, or patterns of names, of files at its top; those it lacks are left out.

    Returns:
        The folder they are in.

    Raises:
        EncoderError: There is no such repository, or no connection.
    """
    name, _, revision = repository.partition("@")

    def cannot_fetch(reason: str) -> EncoderError:
        return EncoderError(
            f"{repository} is not on this machine and could not be fetched ({reason}). Connect to "
            "the network, or give a folder copied from elsewhere."
        )

    with library_call(cannot_fetch, is_download=True):
        try:
            return Path(
                snapshot_download(name, revision=revision or None, allow_patterns=list(files))
            )
        except HFValidationError:
            raise EncoderError(
                f"{repository:.300} is no folder on this machine and could not be fetched, since "
                "it cannot be a name on the hub: expected a folder, or OWNER/NAME on the hub"
            ) from None
        except LocalEntryNotFoundError:
            raise cannot_fetch("no connection to the Hugging Face hub") from None


def three_numbers(values: Any, source: str) -> tuple[float, float, float]:
    """Return a mean or a standard deviation, one number per colour.

    Raises:
        EncoderError: What `source` has is something else.
    """
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        red, green, blue = math.nan, math.nan, math.nan
    if not all(map(math.isfinite, (red, green, blue))):
        raise EncoderError(
            f"mean and std should be three numbers each, found {values!r:.80} in {source}"
        )
    return red, green, blue


def require_same_size(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Refuse weights that are far fewer than the parameters of a tower, before it takes memory.

    Args:
        module: The tower, built on the meta device.
        state: Its weights.
        name: What a spec calls the weights.

    Raises:
        EncoderError: They cannot be this tower's.
    """
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    num_weights = sum(tensor.numel() for tensor in state.values())
    # Positions are resized to the images, and may be many more than in the file.
    if num_parameters > 2 * num_weights + MAX_RESIZED_POSITIONS:
        raise EncoderError(
            f"the weights {name} do not fit the encoder: found {num_weights:,} numbers, and its "
            f"configuration describes {num_parameters:,}. Name the encoder they were trained for."
        )
