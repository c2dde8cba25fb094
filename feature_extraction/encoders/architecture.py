"""The common interface of image encoders from all libraries.

An architecture returns features as a map: for `grid` the cells of the last layer without class,
distillation and register tokens, for `pooled` one vector per image, not scaled to unit length, for
`language` the tokens that a language model reads. The module of each library documents which
outputs these are.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from feature_extraction.encoders.weights import (
    RANDOM,
    Normalisation,
    require_similar_size,
    seeded,
    state_sha256,
)
from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

# B images, C channels, H rows and W columns of the grid, S image size

__all__ = ["Architecture", "Checkpoint", "LoadedModel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Pretrained weights, read from a file or a repository.

    Args:
        name: Name of the weights in a spec: a tag, `file:` and the file's name, or `hub:` and the
            repository.
        state: Tensors by name.
        sha256: Hash of the weights before any resizing, so that it depends neither on the file nor
            on the image size.
        normalisation: Mean and standard deviation used in training; `None` if the weights do not
            state them.
        path: File of the tensors, for libraries that read it themselves.
    """

    name: str
    state: Mapping[str, Tensor]
    sha256: str
    normalisation: Normalisation | None = None
    path: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A network with loaded weights.

    Args:
        module: The network; its position embeddings fit the requested image size.
        weights: `name` of the checkpoint, or `random`.
        weights_sha256: Hash of the weights before any resizing.
        normalisation: Mean and standard deviation used in training.
    """

    module: nn.Module
    weights: str
    weights_sha256: str
    normalisation: Normalisation


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """An image encoder without its weights.

    Args:
        name: Name of the encoder.
        image_size: Default image size in pixels.
        default_weights: Tag, file, folder or repository; `None` if users must choose.
        normalisation: Mean and standard deviation of images; `None` if they depend on the weights.
        quick_gelu: Whether the transformer blocks use QuickGELU.
        packages: Packages to record in the spec in addition to PyTorch and open_clip.
    """

    name: str
    image_size: int
    default_weights: str | Path | None
    normalisation: Normalisation | None
    quick_gelu: bool
    packages: tuple[str, ...]

    @property
    def architecture_sha256(self) -> str:
        """Hash of everything that determines the computation, except the image size."""
        return hashlib.sha256(json.dumps(self._description, sort_keys=True).encode()).hexdigest()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers that may have features; the first is the default."""
        return ("grid", "pooled")

    @abstractmethod
    def cell_size(self) -> int:
        """Return the number of pixels from one grid cell to the next."""

    @abstractmethod
    def features(self, module: nn.Module, pixels_B3SS: Tensor, layer: Layer) -> Tensor:
        """Return the features of normalised images.

        Returns:
            `[B, C, H, W]`; H and W are 1 for the pooled layer, and H is 1 for tokens without a
            place in the image.

        Raises:
            EncoderError: The encoder has no such features.
        """

    def projection_sha256(self, module: nn.Module) -> str | None:
        """Return the hash of the projection into a language model; `None` if there is none.

        Args:
            module: The network with its weights.
        """
        return None

    def build(self, side: int) -> nn.Module:
        """Build the network for images of `side` pixels, with initial weights.

        Raises:
            EncoderError: The library cannot build it.
        """
        module = self._build(side)
        self._set_input_size(module, side)
        return module

    def load(self, side: int, layer: Layer, weights: str | Path | None) -> LoadedModel:
        """Build the network and load its weights.

        Args:
            side: Image size in pixels.
            layer: Layer whose features will be requested.
            weights: Tag of the library, `.safetensors` file, or `random`. Default:
                `default_weights`.

        Raises:
            EncoderError: The weights are unknown, unsafe to read or damaged, cannot be downloaded,
                do not fit, or were trained with another activation.
        """
        source = self.default_weights if weights is None else weights
        if source is None:
            raise EncoderError(self._no_default_weights())
        if source == RANDOM:
            normalisation = self._require_normalisation(source)
            with seeded():
                module = self._build(side)
            name, sha256 = RANDOM, state_sha256(module.state_dict())
        else:
            checkpoint = self._read(source)
            normalisation = checkpoint.normalisation or self._require_normalisation(source)
            name, sha256 = checkpoint.name, checkpoint.sha256
            with torch.device("meta"):
                meta_module = self._build(side)
            require_similar_size(meta_module, checkpoint.state, name)
            module = self._build_with(checkpoint, meta_module, side, layer)
        self._set_input_size(module, side)
        return LoadedModel(
            module=module, weights=name, weights_sha256=sha256, normalisation=normalisation
        )

    @property
    @abstractmethod
    def _description(self) -> Mapping[str, Any]:
        """JSON-compatible description of everything that determines the computation."""

    @abstractmethod
    def _build(self, side: int) -> nn.Module:
        """Build the network with initial weights, before `_set_input_size`."""

    @abstractmethod
    def _read(self, source: str | Path) -> Checkpoint:
        """Read weights from a tag, a file, a folder or a repository."""

    @abstractmethod
    def _build_with(
        self, checkpoint: Checkpoint, meta_module: nn.Module, side: int, layer: Layer
    ) -> nn.Module:
        """Build the network with the weights of a checkpoint.

        Args:
            checkpoint: The weights.
            meta_module: The network on the meta device.
            side: Image size in pixels.
            layer: Layer whose features will be requested.
        """

    def _set_input_size(self, module: nn.Module, side: int) -> None:  # noqa: B027
        """Resize a network that the library builds at its default image size."""

    def _no_default_weights(self) -> str:
        return f"{self.name} has no pretrained weights: give --weights a .safetensors file"

    def _require_normalisation(self, source: str | Path) -> Normalisation:
        if self.normalisation is None:
            raise EncoderError(
                f"the pretrained weights of {self.name} differ in their normalisation, and it is "
                f"not known which one {source} was trained with. Put its open_clip_config.json in "
                "the same folder."
            )
        return self.normalisation

    def _check_activation(self, weights: str, is_trained_with_quick_gelu: bool) -> None:
        if is_trained_with_quick_gelu != self.quick_gelu:
            names = {True: "QuickGELU", False: "GELU"}
            raise EncoderError(
                f"the weights ({weights}) were trained with {names[is_trained_with_quick_gelu]}, "
                f"but {self.name} computes {names[self.quick_gelu]}, so its features would be "
                "silently wrong. Choose weights and an encoder with the same activation (models "
                "that compute QuickGELU have quickgelu in their names)."
            )

    def _unknown_weights(self, source: str | Path, tags: Iterable[str]) -> EncoderError:
        return EncoderError(
            f"weights {source}: no such file, and no tag of this encoder (its tags: "
            f"{', '.join(tags) or 'none'}). Give a tag, a .safetensors file, or {RANDOM!r}."
        )
