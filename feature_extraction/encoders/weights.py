"""Helpers for pretrained weights, shared by the encoders of all libraries."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn

from feature_extraction.encoders.library_guard import guard_library_call
from feature_extraction.errors import EncoderError

__all__ = [
    "FILE_PREFIX",
    "HUB_PREFIX",
    "RANDOM",
    "Normalisation",
    "fetch_from_hub",
    "mismatch_error",
    "parse_channel_values",
    "projection_sha256",
    "require_similar_size",
    "seeded",
    "state_sha256",
]

RANDOM = "random"
FILE_PREFIX = "file:"
HUB_PREFIX = "hub:"

# Position embeddings are resized to the image size, so a model may have more than its checkpoint.
MAX_RESIZED_POSITIONS = 2**26

# Mean and standard deviation per colour channel.
Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash the names, types, shapes and values of tensors in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def projection_sha256(projection: Mapping[str, Tensor]) -> str:
    """Hash the projection of a vision-language model into the embeddings of its language model.

    The hash tells whether a language model belongs to stored features. It is computed from float32
    values, so that it does not depend on the type in which a checkpoint stores them.

    Args:
        projection: All tensors of the projection, by their names within the projection, such as
            `weight` and `bias`.
    """
    return state_sha256({name: tensor.float() for name, tensor in projection.items()})


@contextmanager
def seeded() -> Iterator[None]:
    """Seed torch's random numbers within the block; the caller's generator is not changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def fetch_from_hub(repository: str, files: Sequence[str]) -> Path:
    """Download files of a Hugging Face repository, unless they are in its cache.

    Args:
        repository: `OWNER/NAME` or `OWNER/NAME@REVISION`. Default revision: the newest.
        files: Names or glob patterns of top-level files; missing ones are skipped.

    Returns:
        The folder that contains the files.

    Raises:
        EncoderError: The repository does not exist or cannot be reached.
    """
    name, _, revision = repository.partition("@")

    def cannot_fetch(reason: str) -> EncoderError:
        return EncoderError(
            f"{repository} is not on this machine and could not be downloaded ({reason}). Connect "
            "to the network, or give a folder copied from another machine."
        )

    with guard_library_call(cannot_fetch, is_download=True):
        try:
            return Path(
                snapshot_download(name, revision=revision or None, allow_patterns=list(files))
            )
        except HFValidationError:
            raise EncoderError(
                f"{repository:.300} is not a folder on this machine and could not be downloaded: "
                "it is not a valid name on the hub. Expected a folder, or OWNER/NAME on the hub."
            ) from None
        except LocalEntryNotFoundError:
            raise cannot_fetch("no connection to the Hugging Face hub") from None


def parse_channel_values(values: Any, source: str) -> tuple[float, float, float]:
    """Return a mean or a standard deviation, one number per colour channel.

    Args:
        values: Value found in a configuration.
        source: Place of the value, for the message.

    Raises:
        EncoderError: `values` are not three finite numbers.
    """
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        red, green, blue = math.nan, math.nan, math.nan
    if not all(map(math.isfinite, (red, green, blue))):
        raise EncoderError(
            f"mean and std must be three numbers each: found {values!r:.80} in {source}"
        )
    return red, green, blue


def mismatch_error(weights: str, reason: str) -> EncoderError:
    """Return the error for weights that do not fit an encoder."""
    return EncoderError(
        f"the weights {weights} do not fit the encoder: {reason}. Choose the encoder they were "
        "trained for."
    )


def require_similar_size(module: nn.Module, state: Mapping[str, Tensor], weights: str) -> None:
    """Refuse a checkpoint much smaller than its model, before memory is allocated for the model.

    Args:
        module: The model, built on the meta device.
        state: Tensors of the checkpoint.
        weights: Name of the weights, for the message.

    Raises:
        EncoderError: The checkpoint cannot belong to this model.
    """
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    num_weights = sum(tensor.numel() for tensor in state.values())
    if num_parameters > 2 * num_weights + MAX_RESIZED_POSITIONS:
        raise mismatch_error(
            weights,
            f"found {num_weights:,} numbers, expected about {num_parameters:,}, which its "
            "configuration describes",
        )
