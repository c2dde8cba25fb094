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
from transformers import AutoModel, PreTrainedConfig

from feature_extraction.encoders.architecture import Architecture, Checkpoint
from feature_extraction.encoders.huggingface_config import (
    CONFIG_NAME,
    create_config,
    without_metadata,
)
from feature_extraction.encoders.huggingface_files import (
    VISION_PREFIX,
    parse_image_size,
    parse_normalisation,
    read_preprocessing,
    read_vision_state,
)
from feature_extraction.encoders.library_guard import guard_library_call
from feature_extraction.encoders.weights import mismatch_error, state_sha256
from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

# B images, C channels, H rows and W columns of the grid, T tokens, S image size

__all__ = ["PREFIX", "HuggingFaceArchitecture"]

PREFIX = "hf:"

POOLER_PREFIX = "pooler."

# Parameters of tokens before the patch tokens.
PREFIX_TOKENS = frozenset("cls_token class_embedding distillation_token register_tokens".split())


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
    def from_files(
        cls, folder: Path, name: str, weights: str | Path, fields: Mapping[str, Any]
    ) -> Self:
        """Read `preprocessor_config.json`, and create the encoder that `config.json` describes.

        Args:
            folder: Folder of the two files.
            name: Name of the encoder.
            weights: Default weights: a folder, or `hub:` and a repository.
            fields: Content of `config.json`.

        Raises:
            EncoderError: There is no such model, or its preprocessing is unknown.
        """
        if "architecture" in fields:
            raise EncoderError(f"{name} is in timm's format: give it as timm:OWNER/NAME")
        config = create_config(fields, folder / CONFIG_NAME)
        config, fields = cls._select_part(config, fields, name)
        preprocessing, source = read_preprocessing(folder)
        vision = cls._vision_config(config)
        return cls(
            name=name,
            image_size=parse_image_size(preprocessing, vision, source),
            default_weights=weights,
            normalisation=parse_normalisation(preprocessing, source),
            quick_gelu=getattr(vision, "hidden_act", None) == "quick_gelu",
            packages=("transformers",),
            config=config,
            fields=fields,
        )

    @classmethod
    def _select_part(
        cls, config: Any, fields: Mapping[str, Any], name: str
    ) -> tuple[Any, Mapping[str, Any]]:
        """Return the configuration of the part to build, and its fields."""
        if isinstance(vision := getattr(config, "vision_config", None), PreTrainedConfig):
            fields = {**(fields.get("vision_config") or {}), "model_type": vision.model_type}
            return vision, fields
        return config, fields

    @classmethod
    def _vision_config(cls, config: Any) -> Any:
        """Return the configuration of the vision model in the part."""
        return config

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
        default = getattr(self._vision_config(self.config), "image_size", None)
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
        height, width = self._patch_size()
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

    def _patch_size(self) -> tuple[int, int]:
        """Return height and width of a patch in pixels."""
        patch = getattr(self._vision_config(self.config), "patch_size", None)
        height, width = patch if isinstance(patch, list | tuple) else (patch, patch)
        if not isinstance(height, int) or not isinstance(width, int):
            raise EncoderError(f"the configuration of {self.name} has no patch_size")
        return height, width

    @property
    def _description(self) -> Mapping[str, Any]:
        return {"transformers": without_metadata(self.fields)}

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


def _is_layer(key: str, layers: set[str], prefixes: tuple[str, ...]) -> bool:
    """Whether an unexpected tensor belongs to a numbered layer, not to a head."""
    for prefix in prefixes:
        key = key.removeprefix(prefix)
    names = key.split(".")
    return names[0] in layers and any(name.isdigit() for name in names)
