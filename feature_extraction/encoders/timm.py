"""Image encoders of timm: built-in models, and folders or repositories in its format.

`grid` is the last of `forward_intermediates`, normalised if the encoder normalises its cells;
`pooled` is the output of the model without its classifier.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from eval.text import did_you_mean
from feature_extraction.encoders.architecture import Architecture, Checkpoint, LoadedModel
from feature_extraction.encoders.checkpoint_files import (
    WEIGHTS_NAME,
    check_numbers,
    read_json_object,
    read_safetensors,
)
from feature_extraction.encoders.library_guard import guard_library_call
from feature_extraction.encoders.weights import (
    FILE_PREFIX,
    HUB_PREFIX,
    fetch_from_hub,
    mismatch_error,
    parse_channel_values,
    state_sha256,
)
from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

# B images, C channels, H rows and W columns of the grid, S image size

__all__ = ["PREFIX", "TimmArchitecture"]

PREFIX = "timm:"
CONFIG_NAME = "config.json"
PICKLED_NAME = "pytorch_model.bin"

# Overrides in timm's configuration, so that timm reads weights only from the file given to it.
NO_SOURCE = {
    "source": "",
    "url": "",
    "file": None,
    "state_dict": None,
    "custom_load": False,
    "hf_hub_id": None,
    "hf_hub_filename": None,
}
# Parameters of `create_model` itself, such as `checkpoint_path`, can name other weights.
RESERVED_ARGUMENTS = frozenset(inspect.signature(timm.create_model).parameters) - {"kwargs"}


@dataclass(frozen=True, kw_only=True)
class TimmArchitecture(Architecture):
    """A timm model.

    Args:
        model: Name of the model in timm, without a tag.
        arguments: Arguments of the model.
        pretrained: timm's record of the weights: input size, normalisation and source.
    """

    model: str
    arguments: Mapping[str, Any]
    pretrained: PretrainedCfg

    @classmethod
    def from_name(cls, model: str, name: str) -> Self:
        """Return a built-in model of timm, or a repository in timm's format.

        Args:
            model: `MODEL`, `MODEL.TAG`, or `OWNER/NAME` on the Hugging Face hub.
            name: Name of the encoder.

        Raises:
            EncoderError: There is no such model or repository.
        """
        if "/" in model:
            folder = fetch_from_hub(model, [CONFIG_NAME])
            return cls._from_config(folder / CONFIG_NAME, name, HUB_PREFIX + model)
        without_tag, _, tag = model.partition(".")
        if not timm.is_model(without_tag) or (tag and tag not in _tags(without_tag)):
            known = [*timm.list_models(), *timm.list_pretrained()]
            raise EncoderError(
                f"timm has no model {model!r}: expected one that timm.list_models() lists, or a "
                "folder or a repository in timm's format"
                f"{did_you_mean(model, known, prefix=PREFIX)}"
            )
        pretrained = timm.get_pretrained_cfg(model) or PretrainedCfg()
        weights = pretrained.tag if pretrained.has_weights else None
        return cls._create(name, without_tag, {}, pretrained, weights)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read a folder with `config.json` and `model.safetensors`, in timm's format for the hub.

        Raises:
            EncoderError: The configuration is not in timm's format.
        """
        return cls._from_config(folder / CONFIG_NAME, folder.resolve().name, folder / WEIGHTS_NAME)

    @classmethod
    def _from_config(cls, path: Path, name: str, weights: str | Path) -> Self:
        config = read_json_object(path)
        model = config.get("architecture")
        if not isinstance(model, str):
            raise EncoderError(f"{path} has no architecture: expected the format of timm")
        # Older folders have no pretrained_cfg: its fields are at the top level.
        pretrained, arguments = config.get("pretrained_cfg", config), config.get("model_args", {})
        if not isinstance(pretrained, dict) or not isinstance(arguments, dict):
            raise EncoderError(f"{path}: pretrained_cfg or model_args is not a JSON object")
        if reserved := sorted(RESERVED_ARGUMENTS & set(arguments)):
            raise EncoderError(
                f"{path}: model_args has {', '.join(reserved)}, which would load weights from "
                "elsewhere: expected only settings of the model. Remove them."
            )
        check_numbers({"model_args": arguments, "pretrained_cfg": pretrained}, path)
        if not timm.is_model(model):
            raise EncoderError(f"{path}: this version of timm has no architecture {model!r}")
        names = {field.name for field in dataclasses.fields(PretrainedCfg)}
        known = {key: value for key, value in pretrained.items() if key in names}
        known["num_classes"] = config.get("num_classes", pretrained.get("num_classes", 0))
        size = arguments.get("img_size")
        if size is not None and known.get("fixed_input_size"):
            known["input_size"] = (3, *(size if isinstance(size, list) else (size, size)))
        arguments = {k: v for k, v in arguments.items() if k != "num_classes"}
        return cls._create(name, model, arguments, PretrainedCfg(**{**known, **NO_SOURCE}), weights)

    @classmethod
    def _create(
        cls,
        name: str,
        model: str,
        arguments: Mapping[str, Any],
        pretrained: PretrainedCfg,
        weights: str | Path | None,
    ) -> Self:
        architecture = cls(
            name=name,
            image_size=_default_image_size(pretrained),
            default_weights=weights,
            normalisation=(
                parse_channel_values(pretrained.mean, name),
                parse_channel_values(pretrained.std, name),
            ),
            quick_gelu=False,
            packages=("timm",),
            model=model,
            arguments=arguments,
            pretrained=pretrained,
        )
        with torch.device("meta"):
            modules = architecture.build(architecture.image_size).modules()
        quick_gelu = any(type(module).__name__ == "QuickGELU" for module in modules)
        return dataclasses.replace(architecture, quick_gelu=quick_gelu)

    def cell_size(self) -> int:
        """Return the number of pixels from one grid cell to the next."""
        with torch.device("meta"):
            module = self._build(self.image_size)
        return int(cast(Any, module).feature_info[-1]["reduction"])

    def load(self, side: int, layer: Layer, weights: str | Path | None) -> LoadedModel:
        """See `Architecture.load`; each tag has its own input size and normalisation."""
        if str(weights) in _tags(self.model) and str(weights) != self.pretrained.tag:
            of_tag = self.from_name(f"{self.model}.{weights}", self.name)
            return of_tag.load(side, layer, weights)
        return super().load(side, layer, weights)

    def features(self, module: nn.Module, pixels_B3SS: Tensor, layer: Layer) -> Tensor:
        """See `Architecture.features`."""
        if layer == "pooled":
            pooled_BC: Tensor = module(pixels_B3SS)
            return pooled_BC[:, :, None, None]
        if not hasattr(module, "forward_intermediates"):
            raise EncoderError(
                f"timm's {self.model} has no forward_intermediates, which the grid layer "
                "requires. Use the pooled layer, or another encoder."
            )
        grids = cast(Any, module).forward_intermediates(
            pixels_B3SS, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        grid_BCHW: Tensor = grids[-1]
        return grid_BCHW

    @property
    def _description(self) -> Mapping[str, Any]:
        return {"timm": self.model, "arguments": dict(self.arguments)}

    def _build(self, side: int) -> nn.Module:
        return self._create_model()

    def _create_model(self, **settings: Any) -> nn.Module:
        settings = {"num_classes": 0, **self.arguments, **settings}
        with guard_library_call(
            lambda reason: EncoderError(f"timm cannot build {self.name}: {reason}")
        ):
            return timm.create_model(self.model, pretrained_cfg=self.pretrained, **settings)

    def _set_input_size(self, module: nn.Module, side: int) -> None:
        default = _default_image_size(self.pretrained)
        if side == default or not hasattr(module, "set_input_size"):
            return

        def cannot_resize(reason: str) -> EncoderError:
            return EncoderError(
                f"{self.name} cannot take images of {side} pixels ({reason}): use its default "
                f"--image-size {default}"
            )

        with guard_library_call(cannot_resize):
            cast(Any, module).set_input_size(side)

    def _read(self, source: str | Path) -> Checkpoint:
        name, path = self._find_weights(str(source))
        state = read_safetensors(path)
        return Checkpoint(name=name, state=state, sha256=state_sha256(state), path=path)

    def _build_with(
        self, checkpoint: Checkpoint, meta_module: nn.Module, side: int, layer: Layer
    ) -> nn.Module:
        """Build the model from a file that may include its classifier."""
        first_error: EncoderError | None = None
        for num_classes in dict.fromkeys((self.pretrained.num_classes, 0)):
            overlay = {**NO_SOURCE, "file": str(checkpoint.path), "num_classes": num_classes}
            try:
                # timm checks the names of tensors only if both numbers of classes agree.
                module = self._create_model(
                    pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes
                )
            except EncoderError as error:
                first_error = first_error or error
                continue
            if num_classes:
                cast(Any, module).reset_classifier(0)
            return module
        raise mismatch_error(checkpoint.name, str(first_error))

    def _find_weights(self, source: str) -> tuple[str, Path]:
        """Return the name of weights in a spec, and their file."""
        if source in _tags(self.model):
            self._check_notes(source)
            return source, _fetch(source, self.pretrained)
        if source.startswith(HUB_PREFIX):
            self._check_notes(source)
            repository = source.removeprefix(HUB_PREFIX)
            return source, _fetch(source, PretrainedCfg(hf_hub_id=repository))
        path = Path(source)
        if not path.exists() and path.suffix != ".safetensors":
            raise self._unknown_weights(source, _tags(self.model))
        if path == self.default_weights:
            self._check_notes(source)
        return FILE_PREFIX + path.name, path

    def _check_notes(self, weights: str) -> None:
        """Check the activation if timm notes that weights were trained with QuickGELU."""
        if "QuickGELU" in " ".join(map(str, self.pretrained.notes or ())):
            self._check_activation(weights, is_trained_with_quick_gelu=True)


def _default_image_size(pretrained: PretrainedCfg) -> int:
    size: Any = pretrained.input_size
    numbers = size if isinstance(size, list | tuple) else [size]
    side = numbers[-1] if numbers else None
    if list(numbers) != [3, side, side] or not isinstance(side, int) or side < 1:
        raise EncoderError(
            f"{pretrained.architecture} takes inputs of {' x '.join(map(str, numbers)):.80}: "
            "expected an encoder of square RGB images"
        )
    return side


def _tags(model: str) -> list[str]:
    return [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]


def _fetch(weights: str, pretrained: PretrainedCfg) -> Path:
    """Download the safetensors file of pretrained weights from the hub."""
    named = Path(pretrained.hf_hub_filename or PICKLED_NAME).with_suffix(".safetensors").name
    names = (named, WEIGHTS_NAME, named.replace("_pytorch_model", "_model"))
    if pretrained.hf_hub_id:
        folder = fetch_from_hub(pretrained.hf_hub_id, names)
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise EncoderError(
        f"the weights {weights} are not on the hub as safetensors, and pickled checkpoints are "
        "refused because they can run any code when read. Give --weights a .safetensors file."
    )
