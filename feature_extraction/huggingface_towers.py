"""Vision towers of transformers: from a folder `save_pretrained` wrote, or from the hub.

`grid` is `last_hidden_state` without class, distillation and register tokens; `pooled` is
`pooler_output`. Of a model of images and text, such as CLIP or SigLIP, only the vision part is
built. Code that comes with a checkpoint is never run.

Mean, standard deviation and image size are those of `preprocessor_config.json`; photographs are
made square and resized by this package's own rules.
"""

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from feature_extraction.errors import EncoderError
from feature_extraction.huggingface_files import (
    PREPROCESSING_NAMES,
    VISION_PREFIX,
    image_size_of,
    normalisation_of,
    read_json,
    read_preprocessing,
    read_vision_state,
)
from feature_extraction.spec import Layer
from feature_extraction.weights import (
    HUB_PREFIX,
    RANDOM,
    LoadedTower,
    Normalisation,
    fetch_from_hub,
    first_lines,
    seeded,
    state_sha256,
)

# B images, C channels, H rows and W columns of the grid, T tokens, S image side

__all__ = ["PREFIX", "HuggingFaceTower", "named_tower", "tower_of_folder"]

PREFIX = "hf:"
CONFIG_NAME = "config.json"

POOLER_PREFIX = "pooler."

# Of a configuration: what says nothing of the computation.
HOUSEKEEPING = frozenset(
    "_commit_hash _name_or_path architectures auto_map dtype id2label label2id torch_dtype "
    "transformers_version".split()
)

# What stands before the patch tokens, by the name of the parameter that holds it.
LEADING_TOKENS = frozenset("cls_token class_embedding distillation_token register_tokens".split())

BUILD_ERRORS = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceTower:
    """A vision model of transformers, and what comes with it.

    Args:
        name: Of the encoder.
        config: transformers' configuration of the vision part.
        described: The same as it stands in `config.json`.
        image_size: Side of its images in pixels, unless another is asked for.
        default_weights: A folder, or `hub:` and the repository.
        normalisation: Mean and standard deviation.
    """

    name: str
    config: Any
    described: Mapping[str, Any]
    image_size: int
    default_weights: str | Path
    normalisation: Normalisation

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages that compute it, beside PyTorch."""
        return ("transformers",)

    @property
    def quick_gelu(self) -> bool:
        """Whether it uses QuickGELU."""
        return bool(getattr(self.config, "hidden_act", None) == "quick_gelu")

    @property
    def architecture_sha256(self) -> str:
        """Hash of the configuration: same hash, same computation; the image size is apart."""
        described = {k: v for k, v in self.described.items() if k not in HOUSEKEEPING}
        return hashlib.sha256(
            json.dumps({"transformers": described}, sort_keys=True).encode()
        ).hexdigest()

    def cell(self) -> int:
        """Pixels from one cell of the grid to the next."""
        with torch.device("meta"):
            module = self.build(self.image_size)
            pixels_13SS = torch.empty(1, 3, self.image_size, self.image_size)
        rows = self.features(module, pixels_13SS, "grid").shape[2]
        return self.image_size // rows

    def build(self, side: int) -> nn.Module:
        """Build the tower for images of `side` pixels, freshly initialised.

        Raises:
            EncoderError: transformers cannot build it, or it is no tower of images.
        """
        try:
            with _quiet():
                module = AutoModel.from_config(
                    self.config, dtype=torch.float32, trust_remote_code=False
                )
        except BUILD_ERRORS as error:
            raise EncoderError(
                f"transformers cannot build {self.name}: {first_lines(str(error))}"
            ) from error
        needed = [
            name
            for name, parameter in inspect.signature(module.forward).parameters.items()
            if parameter.default is parameter.empty and parameter.kind != parameter.VAR_KEYWORD
        ]
        if module.main_input_name != "pixel_values" or needed not in ([], ["pixel_values"]):
            raise EncoderError(
                f"{self.name} is a {type(module).__name__}, which takes {', '.join(needed)}: "
                "expected a vision model that takes square images and nothing else. (Of SigLIP 2, "
                "the checkpoints with naflex in their name take patches; the others can be used.)"
            )
        return cast(nn.Module, module)

    def load(self, side: int, layer: Layer, weights: str | Path | None) -> LoadedTower:
        """Build the tower with its weights.

        Args:
            side: Of its images, in pixels.
            layer: Which features will be asked of it.
            weights: A `.safetensors` file, or `random`; `None` takes `default_weights`.

        Raises:
            EncoderError: The weights are not safe to read, damaged, cannot be fetched, or do not
                fit.
        """
        source = str(self.default_weights if weights is None else weights)
        if source == RANDOM:
            with seeded():
                module = self.build(side)
            name, sha256 = RANDOM, state_sha256(module.state_dict())
        else:
            name, state = read_vision_state(source)
            # The vision part of CLIP hashes like the same vision model saved alone.
            sha256 = state_sha256({k.removeprefix(VISION_PREFIX): t for k, t in state.items()})
            module = self._loaded(state, name, layer)
        return LoadedTower(
            module=module, weights=name, weights_sha256=sha256, normalisation=self.normalisation
        )

    def features(self, module: nn.Module, pixels_B3SS: Tensor, layer: Layer) -> Tensor:
        """Return what the tower gives at `layer`, `[B, C, H, W]`.

        Raises:
            EncoderError: It has no such features, or they are not a grid.
        """
        side = pixels_B3SS.shape[-1]
        own_size = getattr(self.config, "image_size", None)
        resized = own_size is not None and own_size not in (side, [side, side], (side, side))
        output = (
            module(pixel_values=pixels_B3SS, interpolate_pos_encoding=True)
            if resized
            and "interpolate_pos_encoding" in inspect.signature(module.forward).parameters
            else module(pixel_values=pixels_B3SS)
        )
        if layer == "pooled":
            pooled: Tensor | None = getattr(output, "pooler_output", None)
            if pooled is None:
                raise EncoderError(f"{self.name} has no pooler_output: take the grid layer")
            return pooled.flatten(1)[:, :, None, None]
        states: Tensor = output.last_hidden_state
        return states if states.dim() == 4 else self._grid(module, states, side)

    def _grid(self, module: nn.Module, states_BTC: Tensor, side: int) -> Tensor:
        """Leave the leading tokens out and lay the others in rows."""
        patch = getattr(self.config, "patch_size", None)
        height, width = patch if isinstance(patch, list | tuple) else (patch, patch)
        if not isinstance(height, int) or not isinstance(width, int):
            raise EncoderError(f"the configuration of {self.name} has no patch_size")
        rows, columns = side // height, side // width
        leading = sum(
            parameter.numel() // states_BTC.shape[-1]
            for name, parameter in module.named_parameters()
            if name.rpartition(".")[2] in LEADING_TOKENS
        )
        if states_BTC.shape[1] != leading + rows * columns:
            raise EncoderError(
                f"{self.name} gives {states_BTC.shape[1]} tokens for an image of {rows} x "
                f"{columns} patches and {leading} leading tokens, so they are not its grid; see "
                "whether timm has the tower (timm:NAME), or take the pooled layer"
            )
        grid_BCT = states_BTC[:, leading:].mT
        return grid_BCT.reshape(*grid_BCT.shape[:2], rows, columns)

    def _loaded(self, state: Mapping[str, Tensor], name: str, layer: Layer) -> nn.Module:
        with torch.device("meta"):
            kind = type(self.build(self.image_size))
        try:
            with _quiet():
                module, info = cast(Any, kind).from_pretrained(
                    None,
                    config=self.config,
                    state_dict=dict(state),
                    dtype=torch.float32,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
        except BUILD_ERRORS as error:
            raise EncoderError(_does_not_fit(name, first_lines(str(error)))) from None
        parts = {part for part, _ in module.named_children()}
        prefixes = (f"{module.base_model_prefix}.", VISION_PREFIX)
        missing = [
            key
            for key in info["missing_keys"]
            # Initialised at random where a checkpoint has none: not used for the grid.
            if layer == "pooled" or not key.startswith(POOLER_PREFIX)
        ]
        surplus = [key for key in info["unexpected_keys"] if _is_layer_of(key, parts, prefixes)]
        for problem, keys in (
            ("are of another size in", [key for key, *_ in info["mismatched_keys"]]),
            ("lack", missing),
            ("have layers it has not:", surplus),
        ):
            if keys:
                named = ", ".join(sorted(keys)[:3])
                hint = " (take the grid layer)" if keys[0].startswith(POOLER_PREFIX) else ""
                raise EncoderError(_does_not_fit(name, f"they {problem} {named}{hint}"))
        return cast(nn.Module, module)


def named_tower(repository: str, name: str) -> HuggingFaceTower:
    """Take a repository of the Hugging Face hub.

    Args:
        repository: `OWNER/NAME`, and `@REVISION` behind it where another than the newest is meant.
        name: What the encoder is called.

    Raises:
        EncoderError: It cannot be had, or holds no vision model.
    """
    folder = fetch_from_hub(repository, [CONFIG_NAME, *PREPROCESSING_NAMES])
    return _tower(folder, name, HUB_PREFIX + repository)


def tower_of_folder(folder: Path) -> HuggingFaceTower:
    """Read a folder with `config.json`, `preprocessor_config.json` and `model.safetensors`.

    Raises:
        EncoderError: It holds no vision model.
    """
    return _tower(folder, folder.resolve().name, folder)


def _tower(folder: Path, name: str, weights: str | Path) -> HuggingFaceTower:
    described = read_json(folder / CONFIG_NAME)
    if "architecture" in described:
        raise EncoderError(f"{name} was written by timm: give it as timm:OWNER/NAME")
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True
            )
    except BUILD_ERRORS as error:
        raise EncoderError(
            f"{folder / CONFIG_NAME} is no configuration transformers knows: "
            f"{first_lines(str(error))}. Code that comes with a checkpoint is not run."
        ) from None
    if getattr(config, "vision_config", None) is not None:
        config = config.vision_config
        described = {**described.get("vision_config", {}), "model_type": config.model_type}
    preprocessing, source = read_preprocessing(folder)
    return HuggingFaceTower(
        name=name,
        config=config,
        described=described,
        image_size=image_size_of(preprocessing, config, source),
        default_weights=weights,
        normalisation=normalisation_of(preprocessing, source),
    )


def _is_layer_of(key: str, parts: set[str], prefixes: tuple[str, ...]) -> bool:
    """Whether a tensor that was left over is of a layer the configuration leaves out."""
    for prefix in prefixes:
        key = key.removeprefix(prefix)
    names = key.split(".")
    return names[0] in parts and any(name.isdigit() for name in names)


def _does_not_fit(weights: str, why: str) -> str:
    return (
        f"the weights {weights} do not fit the encoder: {why}. Name the encoder they were "
        "trained for."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from printing its own reports; problems come as exceptions."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
