"""Towers of timm: by name, from a folder timm wrote, or from a repository on the hub.

`grid` is the last of `forward_intermediates`, normalised where the tower normalises its cells;
`pooled` is what the tower gives without its classifier.
"""

import dataclasses
import difflib
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from feature_extraction.encoders.library_calls import library_call
from feature_extraction.encoders.model_files import (
    WEIGHTS_NAME,
    check_numbers,
    read_json_object,
    read_safetensors,
)
from feature_extraction.encoders.weights import (
    FILE_PREFIX,
    HUB_PREFIX,
    RANDOM,
    LoadedTower,
    Normalisation,
    fetch_from_hub,
    require_same_size,
    seeded,
    state_sha256,
    three_numbers,
)
from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

# B images, C channels, H rows and W columns of the grid, S image side

__all__ = ["PREFIX", "TimmTower", "named_tower", "tower_of_folder"]

PREFIX = "timm:"
CONFIG_NAME = "config.json"
PICKLED_NAME = "pytorch_model.bin"

# In an overlay of timm's configuration: nothing but the file that is given there is read.
NO_SOURCE = {
    "source": "",
    "url": "",
    "file": None,
    "state_dict": None,
    "custom_load": False,
    "hf_hub_id": None,
    "hf_hub_filename": None,
}
# What `create_model` itself takes, such as `checkpoint_path`, says where weights are from.
NOT_ARGUMENTS = frozenset(inspect.signature(timm.create_model).parameters) - {"kwargs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmTower:
    """An architecture of timm, and what comes with it.

    Args:
        name: Of the encoder.
        architecture: timm's name of it, without a tag.
        arguments: What the architecture is built with, beside its own settings.
        pretrained: timm's record of the weights: their input, normalisation and source.
        image_size: Side of its images in pixels, unless another is asked for.
        default_weights: Tag, or file; `None` where timm has no weights for it.
        normalisation: Mean and standard deviation.
        quick_gelu: Whether it uses QuickGELU.
    """

    name: str
    architecture: str
    arguments: Mapping[str, Any]
    pretrained: PretrainedCfg
    image_size: int
    default_weights: str | Path | None
    normalisation: Normalisation
    quick_gelu: bool

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages that compute it, beside PyTorch."""
        return ("timm",)

    @property
    def architecture_sha256(self) -> str:
        """Hash of the architecture: same hash, same computation; the image size is apart."""
        described = {"timm": self.architecture, "arguments": dict(self.arguments)}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def cell(self) -> int:
        """Pixels from one cell of the grid to the next."""
        with torch.device("meta"):
            module = self._build()
        return int(cast(Any, module).feature_info[-1]["reduction"])

    def build(self, side: int) -> nn.Module:
        """Build the tower for images of `side` pixels, freshly initialised.

        Raises:
            EncoderError: timm cannot build it.
        """
        module = self._build()
        self._fit(module, side)
        return module

    def load(self, side: int, layer: Layer, weights: str | Path | None) -> LoadedTower:
        """Build the tower with its weights.

        Args:
            side: Of its images, in pixels.
            layer: Which features will be asked of it.
            weights: A tag of timm's, a `.safetensors` file, or `random`; `None` takes
                `default_weights`.

        Raises:
            EncoderError: The weights are not known, not safe to read, damaged, cannot be fetched,
                do not fit, or were trained with another activation.
        """
        chosen = self.default_weights if weights is None else weights
        if chosen is None:
            raise EncoderError(
                f"timm has no weights for {self.name}: give --weights a .safetensors file"
            )
        source = str(chosen)
        if source in _tags(self.architecture) and source != self.pretrained.tag:
            # Another tag has its own input size and normalisation.
            return named_tower(f"{self.architecture}.{source}", self.name).load(side, layer, source)
        if source == RANDOM:
            with seeded():
                module = self._build()
            name, sha256 = RANDOM, state_sha256(module.state_dict())
        else:
            name, path = self._find(source)
            state = read_safetensors(path)
            sha256 = state_sha256(state)
            with torch.device("meta"):
                require_same_size(self._build(), state, name)
            module = self._loaded(path, name)
        self._fit(module, side)
        return LoadedTower(
            module=module, weights=name, weights_sha256=sha256, normalisation=self.normalisation
        )

    def features(self, module: nn.Module, pixels_B3SS: Tensor, layer: Layer) -> Tensor:
        """Return what the tower gives at `layer`, `[B, C, H, W]`.

        Raises:
            EncoderError: It has no grid.
        """
        if layer == "pooled":
            pooled_BC: Tensor = module(pixels_B3SS)
            return pooled_BC[:, :, None, None]
        if not hasattr(module, "forward_intermediates"):
            raise EncoderError(
                f"timm's {self.architecture} has no forward_intermediates, which gives the grid: "
                "take the pooled layer, or another tower"
            )
        grids = cast(Any, module).forward_intermediates(
            pixels_B3SS, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        grid_BCHW: Tensor = grids[-1]
        return grid_BCHW

    def _build(self, **pretrained: Any) -> nn.Module:
        settings = {"num_classes": 0, **self.arguments, **pretrained}
        with library_call(lambda reason: EncoderError(f"timm cannot build {self.name}: {reason}")):
            return timm.create_model(self.architecture, pretrained_cfg=self.pretrained, **settings)

    def _loaded(self, path: Path, name: str) -> nn.Module:
        """Build the tower with weights from a file, with a classifier in it or without."""
        first_error: EncoderError | None = None
        for classes in dict.fromkeys((self.pretrained.num_classes, 0)):
            overlay = {**NO_SOURCE, "file": str(path), "num_classes": classes}
            try:
                # Only when both numbers of classes agree is timm strict about the names.
                module = self._build(
                    pretrained=True, pretrained_cfg_overlay=overlay, num_classes=classes
                )
            except EncoderError as error:
                first_error = first_error or error
                continue
            if classes:
                cast(Any, module).reset_classifier(0)
            return module
        raise EncoderError(
            f"the weights {name} do not fit the encoder: {first_error}. Name the encoder they "
            "were trained for."
        )

    def _fit(self, module: nn.Module, side: int) -> None:
        own = _own_size(self.pretrained)
        if side == own or not hasattr(module, "set_input_size"):
            return

        def cannot_fit(reason: str) -> EncoderError:
            return EncoderError(
                f"{self.name} cannot take images of {side} pixels ({reason}): "
                f"use its own --image-size {own}"
            )

        with library_call(cannot_fit):
            cast(Any, module).set_input_size(side)

    def _find(self, source: str) -> tuple[str, Path]:
        """Find the file of a tag or a repository, or take the file that is given."""
        if source in _tags(self.architecture):
            self._check_activation(source)
            return source, _fetch(source, self.pretrained)
        if source.startswith(HUB_PREFIX):
            self._check_activation(source)
            repository = source.removeprefix(HUB_PREFIX)
            return source, _fetch(source, PretrainedCfg(hf_hub_id=repository))
        path = Path(source)
        if not path.exists() and path.suffix != ".safetensors":
            raise EncoderError(
                f"weights {source}: no such file, and no tag of this encoder (its tags: "
                f"{', '.join(_tags(self.architecture)) or 'none'}). Give a tag, a .safetensors "
                f"file, or {RANDOM!r}."
            )
        if path == self.default_weights:
            self._check_activation(str(path))
        return FILE_PREFIX + path.name, path

    def _check_activation(self, what: str) -> None:
        """Heed timm's own note that weights were trained with QuickGELU."""
        notes = " ".join(map(str, self.pretrained.notes or ()))
        if "QuickGELU" in notes and not self.quick_gelu:
            raise EncoderError(
                f"the weights {what} were trained with QuickGELU, timm's {self.architecture} "
                "computes GELU: its features would be silently wrong. Take timm's architecture "
                "whose name has quickgelu in it."
            )


def named_tower(encoder: str, name: str) -> TimmTower:
    """Take an architecture of timm's list, or a repository timm wrote.

    Args:
        encoder: `ARCHITECTURE`, `ARCHITECTURE.TAG`, or `OWNER/NAME` on the Hugging Face hub.
        name: What the encoder is called.

    Raises:
        EncoderError: There is no such architecture or repository.
    """
    if "/" in encoder:
        folder = fetch_from_hub(encoder, [CONFIG_NAME])
        return _tower_of_config(folder / CONFIG_NAME, name, HUB_PREFIX + encoder)
    architecture, _, tag = encoder.partition(".")
    if not timm.is_model(architecture) or (tag and tag not in _tags(architecture)):
        known = [*timm.list_models(), *timm.list_pretrained()]
        near = difflib.get_close_matches(encoder, known, n=3, cutoff=0.5)
        meant = f"; did you mean {', '.join(PREFIX + each for each in near)}?" if near else ""
        raise EncoderError(
            f"timm has no model {encoder!r}{meant} timm.list_models() lists those it has; a "
            "folder or a repository timm wrote will do as well."
        )
    pretrained = _pretrained(encoder)
    return _tower(
        architecture,
        name,
        arguments={},
        pretrained=pretrained,
        default_weights=pretrained.tag if pretrained.has_weights else None,
    )


def tower_of_folder(folder: Path) -> TimmTower:
    """Read a folder with `config.json` and `model.safetensors`, as timm writes it for the hub.

    Raises:
        EncoderError: The configuration is not what timm writes.
    """
    path = folder / CONFIG_NAME
    return _tower_of_config(path, folder.resolve().name, folder / WEIGHTS_NAME)


def _tower_of_config(path: Path, name: str, weights: str | Path) -> TimmTower:
    config = read_json_object(path)
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise EncoderError(f"{path} lacks architecture, which timm writes")
    # Older folders hold what belongs into pretrained_cfg beside the architecture.
    pretrained, arguments = config.get("pretrained_cfg", config), config.get("model_args", {})
    if not isinstance(pretrained, dict) or not isinstance(arguments, dict):
        raise EncoderError(f"{path}: pretrained_cfg or model_args is no JSON object")
    if sources := sorted(NOT_ARGUMENTS & set(arguments)):
        raise EncoderError(
            f"{path}: model_args has {', '.join(sources)}, which would load weights from "
            "elsewhere: expected settings of the architecture alone. Remove them."
        )
    check_numbers({"model_args": arguments, "pretrained_cfg": pretrained}, path)
    if not timm.is_model(architecture):
        raise EncoderError(f"{path}: this version of timm has no architecture {architecture!r}")
    names = {field.name for field in dataclasses.fields(PretrainedCfg)}
    known = {key: value for key, value in pretrained.items() if key in names}
    known["num_classes"] = config.get("num_classes", pretrained.get("num_classes", 0))
    size = arguments.get("img_size")
    if size is not None and known.get("fixed_input_size"):
        known["input_size"] = (3, *(size if isinstance(size, list) else (size, size)))
    return _tower(
        architecture,
        name,
        arguments={k: v for k, v in arguments.items() if k != "num_classes"},
        pretrained=PretrainedCfg(**{**known, **NO_SOURCE}),
        default_weights=weights,
    )


def _tower(
    architecture: str,
    name: str,
    *,
    arguments: Mapping[str, Any],
    pretrained: PretrainedCfg,
    default_weights: str | Path | None,
) -> TimmTower:
    tower = TimmTower(
        name=name,
        architecture=architecture,
        arguments=arguments,
        pretrained=pretrained,
        image_size=_own_size(pretrained),
        default_weights=default_weights,
        normalisation=(three_numbers(pretrained.mean, name), three_numbers(pretrained.std, name)),
        quick_gelu=False,
    )
    with torch.device("meta"):
        modules = tower.build(tower.image_size).modules()
    quick_gelu = any(type(module).__name__ == "QuickGELU" for module in modules)
    return dataclasses.replace(tower, quick_gelu=quick_gelu)


def _own_size(pretrained: PretrainedCfg) -> int:
    size: Any = pretrained.input_size
    numbers = size if isinstance(size, list | tuple) else [size]
    side = numbers[-1] if numbers else None
    if list(numbers) != [3, side, side] or not isinstance(side, int) or side < 1:
        raise EncoderError(
            f"{pretrained.architecture} takes {' x '.join(map(str, numbers)):.80} numbers; "
            "only towers of square RGB images can be used"
        )
    return side


def _pretrained(name: str) -> PretrainedCfg:
    return timm.get_pretrained_cfg(name) or PretrainedCfg()


def _tags(architecture: str) -> list[str]:
    return [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]


def _fetch(what: str, pretrained: PretrainedCfg) -> Path:
    """Fetch the safetensors file of weights from the hub."""
    named = Path(pretrained.hf_hub_filename or PICKLED_NAME).with_suffix(".safetensors").name
    names = (named, WEIGHTS_NAME, named.replace("_pytorch_model", "_model"))
    if pretrained.hf_hub_id:
        folder = fetch_from_hub(pretrained.hf_hub_id, names)
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise EncoderError(
        f"the weights {what} are not on the hub as safetensors, and pickled checkpoints, which can "
        "run any code when read, are refused. Give --weights a .safetensors file."
    )
