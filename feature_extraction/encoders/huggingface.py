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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig

from feature_extraction.encoders.huggingface_files import (
    PREPROCESSING_NAMES,
    VISION_PREFIX,
    image_size_of,
    normalisation_of,
    read_preprocessing,
    read_vision_state,
)
from feature_extraction.encoders.library_calls import library_call
from feature_extraction.encoders.model_files import check_numbers, read_json_object
from feature_extraction.encoders.weights import (
    HUB_PREFIX,
    RANDOM,
    LoadedTower,
    Normalisation,
    fetch_from_hub,
    require_same_size,
    seeded,
    state_sha256,
)
from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

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

# Of a configuration, wherever in it: what would fetch or run something, or change the arithmetic.
UNWANTED = frozenset(
    "_attn_implementation _attn_implementation_internal _commit_hash _experts_implementation "
    "_name_or_path attn_implementation auto_map dtype experts_implementation name_or_path "
    "quantization_config torch_dtype use_kernels".split()
)
# What names another model, to be fetched or read from any folder.
OTHER_MODEL = "backbone"


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

        def cannot_build(reason: str) -> EncoderError:
            return EncoderError(f"transformers cannot build {self.name}: {reason}")

        with library_call(cannot_build):
            module = AutoModel.from_config(
                self.config, dtype=torch.float32, trust_remote_code=False
            )
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
            plan = self.build(self.image_size)
        require_same_size(plan, state, name)
        with library_call(lambda reason: EncoderError(_does_not_fit(name, reason))):
            module, info = cast(Any, type(plan)).from_pretrained(
                None,
                config=self.config,
                state_dict=dict(state),
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
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
    path = folder / CONFIG_NAME
    described = read_json_object(path)
    if "architecture" in described:
        raise EncoderError(f"{name} was written by timm: give it as timm:OWNER/NAME")
    config = _read_config(described, path)
    if isinstance(vision := getattr(config, "vision_config", None), PreTrainedConfig):
        config = vision
        own = described.get("vision_config") or {}
        described = {**own, "model_type": config.model_type}
    preprocessing, source = read_preprocessing(folder)
    return HuggingFaceTower(
        name=name,
        config=config,
        described=described,
        image_size=image_size_of(preprocessing, config, source),
        default_weights=weights,
        normalisation=normalisation_of(preprocessing, source),
    )


def _read_config(described: Mapping[str, Any], path: Path) -> Any:
    """Make transformers' configuration of what a `config.json` describes.

    Raises:
        EncoderError: transformers has no such model, or a value is not valid.
    """
    kind = described.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise EncoderError(
            f"{path} is no configuration transformers knows: found the model_type {kind!r:.80}. "
            "Code that comes with a checkpoint is not run."
        )
    check_numbers(described, path)

    def is_no_config(reason: str) -> EncoderError:
        return EncoderError(f"{path} is no configuration of a {kind}: {reason}")

    with library_call(is_no_config):
        return CONFIG_MAPPING[kind].from_dict(_cleaned(described, path))


def _cleaned(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        if isinstance(value.get(OTHER_MODEL), str):
            raise EncoderError(
                f"{path} names another model, {value[OTHER_MODEL]!r:.80}, as its {OTHER_MODEL}: "
                "expected a vision model with all its layers in one checkpoint"
            )
        return {k: _cleaned(v, path) for k, v in value.items() if k not in UNWANTED}
    if isinstance(value, list):
        return [_cleaned(inner, path) for inner in value]
    return value


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
