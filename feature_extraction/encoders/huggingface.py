"""Image encoders of transformers: folders in its format, and repositories on the hub.

`grid` is `last_hidden_state` without class, distillation and register tokens; `pooled` is
`pooler_output`. Of a vision-language model such as CLIP or SigLIP, only the vision part is built.
Code of a checkpoint is never run.

Mean, standard deviation and image size come from `preprocessor_config.json`. Resizing follows the
rules of this package (`feature_extraction.images.preprocess`).
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig

from feature_extraction.encoders.architecture import Architecture, Checkpoint
from feature_extraction.encoders.checkpoint_files import check_numbers, read_json_object
from feature_extraction.encoders.huggingface_files import (
    PREPROCESSING_NAMES,
    VISION_PREFIX,
    parse_image_size,
    parse_normalisation,
    read_preprocessing,
    read_vision_state,
)
from feature_extraction.encoders.library_guard import guard_library_call
from feature_extraction.encoders.weights import (
    HUB_PREFIX,
    fetch_from_hub,
    mismatch_error,
    state_sha256,
)
from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

# B images, C channels, H rows and W columns of the grid, T tokens, S image size

__all__ = ["PREFIX", "HuggingFaceArchitecture"]

PREFIX = "hf:"
CONFIG_NAME = "config.json"

POOLER_PREFIX = "pooler."

# Configuration fields that do not affect the computation.
METADATA_FIELDS = frozenset(
    "_commit_hash _name_or_path architectures auto_map dtype id2label label2id torch_dtype "
    "transformers_version".split()
)

# Parameters of tokens before the patch tokens.
PREFIX_TOKENS = frozenset("cls_token class_embedding distillation_token register_tokens".split())

# Configuration fields, at any depth, that would download or run code, or change the arithmetic.
REMOVED_FIELDS = frozenset(
    "_attn_implementation _attn_implementation_internal _commit_hash _experts_implementation "
    "_name_or_path attn_implementation auto_map dtype experts_implementation name_or_path "
    "quantization_config torch_dtype use_kernels".split()
)
# Configuration field that names another model, on the hub or in a folder.
OTHER_MODEL = "backbone"


@dataclass(frozen=True, kw_only=True)
class HuggingFaceArchitecture(Architecture):
    """The vision part of a transformers model.

    Args:
        config: Configuration object of transformers.
        fields: The same configuration, as read from `config.json`.
    """

    config: Any
    fields: Mapping[str, Any]

    @classmethod
    def from_name(cls, repository: str, name: str) -> Self:
        """Return the model of a repository on the Hugging Face hub.

        Args:
            repository: `OWNER/NAME` or `OWNER/NAME@REVISION`. Default revision: the newest.
            name: Name of the encoder.

        Raises:
            EncoderError: The repository cannot be downloaded, or has no vision model.
        """
        folder = fetch_from_hub(repository, [CONFIG_NAME, *PREPROCESSING_NAMES])
        return cls._from_files(folder, name, HUB_PREFIX + repository)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read a folder with `config.json`, `preprocessor_config.json` and `model.safetensors`.

        Raises:
            EncoderError: The folder has no vision model.
        """
        return cls._from_files(folder, folder.resolve().name, folder)

    @classmethod
    def _from_files(cls, folder: Path, name: str, weights: str | Path) -> Self:
        path = folder / CONFIG_NAME
        fields = read_json_object(path)
        if "architecture" in fields:
            raise EncoderError(f"{name} is in timm's format: give it as timm:OWNER/NAME")
        config = _read_config(fields, path)
        if isinstance(vision := getattr(config, "vision_config", None), PreTrainedConfig):
            config = vision
            fields = {**(fields.get("vision_config") or {}), "model_type": config.model_type}
        preprocessing, source = read_preprocessing(folder)
        return cls(
            name=name,
            image_size=parse_image_size(preprocessing, config, source),
            default_weights=weights,
            normalisation=parse_normalisation(preprocessing, source),
            quick_gelu=getattr(config, "hidden_act", None) == "quick_gelu",
            packages=("transformers",),
            config=config,
            fields=fields,
        )

    def cell_size(self) -> int:
        """Return the number of pixels from one grid cell to the next."""
        with torch.device("meta"):
            module = self.build(self.image_size)
            pixels_13SS = torch.empty(1, 3, self.image_size, self.image_size)
        rows = self.features(module, pixels_13SS, "grid").shape[2]
        return self.image_size // rows

    def features(self, module: nn.Module, pixels_B3SS: Tensor, layer: Layer) -> Tensor:
        """See `Architecture.features`."""
        side = pixels_B3SS.shape[-1]
        default = getattr(self.config, "image_size", None)
        is_resized = default is not None and default not in (side, [side, side], (side, side))
        can_interpolate = "interpolate_pos_encoding" in inspect.signature(module.forward).parameters
        settings = {"interpolate_pos_encoding": True} if is_resized and can_interpolate else {}
        output = module(pixel_values=pixels_B3SS, **settings)
        if layer == "pooled":
            pooled: Tensor | None = getattr(output, "pooler_output", None)
            if pooled is None:
                raise EncoderError(f"{self.name} has no pooler_output: use the grid layer")
            return pooled.flatten(1)[:, :, None, None]
        states: Tensor = output.last_hidden_state
        return states if states.dim() == 4 else self._grid(module, states, side)

    def _grid(self, module: nn.Module, states_BTC: Tensor, side: int) -> Tensor:
        """Return the patch tokens as a map, without the prefix tokens."""
        patch = getattr(self.config, "patch_size", None)
        height, width = patch if isinstance(patch, list | tuple) else (patch, patch)
        if not isinstance(height, int) or not isinstance(width, int):
            raise EncoderError(f"the configuration of {self.name} has no patch_size")
        rows, columns = side // height, side // width
        num_prefix_tokens = sum(
            parameter.numel() // states_BTC.shape[-1]
            for name, parameter in module.named_parameters()
            if name.rpartition(".")[2] in PREFIX_TOKENS
        )
        if states_BTC.shape[1] != num_prefix_tokens + rows * columns:
            raise EncoderError(
                f"the tokens of {self.name} are not a grid: found {states_BTC.shape[1]} tokens, "
                f"expected {rows} x {columns} patch tokens and {num_prefix_tokens} prefix tokens. "
                "Use the same encoder from timm (timm:NAME) if it exists, or the pooled layer."
            )
        grid_BCT = states_BTC[:, num_prefix_tokens:].mT
        return grid_BCT.reshape(*grid_BCT.shape[:2], rows, columns)

    @property
    def _description(self) -> Mapping[str, Any]:
        fields = {k: v for k, v in self.fields.items() if k not in METADATA_FIELDS}
        return {"transformers": fields}

    def _build(self, side: int) -> nn.Module:
        def cannot_build(reason: str) -> EncoderError:
            return EncoderError(f"transformers cannot build {self.name}: {reason}")

        with guard_library_call(cannot_build):
            module = AutoModel.from_config(
                self.config, dtype=torch.float32, trust_remote_code=False
            )
        required = [
            name
            for name, parameter in inspect.signature(module.forward).parameters.items()
            if parameter.default is parameter.empty and parameter.kind != parameter.VAR_KEYWORD
        ]
        if module.main_input_name != "pixel_values" or required not in ([], ["pixel_values"]):
            raise EncoderError(
                f"{self.name} is a {type(module).__name__}, which takes {', '.join(required)}: "
                "expected a vision model that takes only square images. (The checkpoints of "
                "SigLIP 2 with naflex in their names take patches; use the others.)"
            )
        return cast(nn.Module, module)

    def _read(self, source: str | Path) -> Checkpoint:
        name, state = read_vision_state(str(source))
        # The vision part of CLIP has the same hash as the same vision model saved alone.
        sha256 = state_sha256({k.removeprefix(VISION_PREFIX): t for k, t in state.items()})
        return Checkpoint(name=name, state=state, sha256=sha256)

    def _build_with(
        self, checkpoint: Checkpoint, meta_module: nn.Module, side: int, layer: Layer
    ) -> nn.Module:
        with guard_library_call(lambda reason: mismatch_error(checkpoint.name, reason)):
            module, info = cast(Any, type(meta_module)).from_pretrained(
                None,
                config=self.config,
                state_dict=dict(checkpoint.state),
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        layers = {name for name, _ in module.named_children()}
        prefixes = (f"{module.base_model_prefix}.", VISION_PREFIX)
        missing = [
            key
            for key in info["missing_keys"]
            # The grid layer does not use the pooler, so the checkpoint does not need one.
            if layer == "pooled" or not key.startswith(POOLER_PREFIX)
        ]
        unexpected = [key for key in info["unexpected_keys"] if _is_layer(key, layers, prefixes)]
        for problem, keys in (
            ("tensors with other shapes", [key for key, *_ in info["mismatched_keys"]]),
            ("missing tensors", missing),
            ("layers that the encoder does not have", unexpected),
        ):
            if keys:
                names = ", ".join(sorted(keys)[:3])
                hint = " (use the grid layer)" if keys[0].startswith(POOLER_PREFIX) else ""
                raise mismatch_error(checkpoint.name, f"{problem}: {names}{hint}")
        return cast(nn.Module, module)


def _read_config(fields: Mapping[str, Any], path: Path) -> Any:
    """Create the configuration object for the fields of a `config.json`.

    Raises:
        EncoderError: transformers has no such model, or a value is invalid.
    """
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise EncoderError(
            f"{path} has the model_type {kind!r:.80}, which transformers does not have. Code of a "
            "checkpoint is not run."
        )
    check_numbers(fields, path)

    def invalid_config(reason: str) -> EncoderError:
        return EncoderError(f"{path} is not a valid configuration of {kind}: {reason}")

    with guard_library_call(invalid_config):
        return CONFIG_MAPPING[kind].from_dict(_without_removed_fields(fields, path))


def _without_removed_fields(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        if isinstance(value.get(OTHER_MODEL), str):
            raise EncoderError(
                f"{path} names another model, {value[OTHER_MODEL]!r:.80}, as its {OTHER_MODEL}: "
                "expected a vision model with all its layers in one checkpoint"
            )
        return {
            key: _without_removed_fields(inner, path)
            for key, inner in value.items()
            if key not in REMOVED_FIELDS
        }
    if isinstance(value, list):
        return [_without_removed_fields(inner, path) for inner in value]
    return value


def _is_layer(key: str, layers: set[str], prefixes: tuple[str, ...]) -> bool:
    """Whether an unexpected tensor belongs to a numbered layer, not to a head."""
    for prefix in prefixes:
        key = key.removeprefix(prefix)
    names = key.split(".")
    return names[0] in layers and any(name.isdigit() for name in names)
