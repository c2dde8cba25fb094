"""Image encoders of open_clip: built-in models, and folders in its format.

Features come from the encoder's own `forward_intermediates`. `grid` is the output of `layer4` of a
ResNet, and the patch tokens of a transformer's last block after its final normalisation (`ln_post`;
`norm` for timm models). The transformers of CoCa normalise only the output of their attention
pool, so their patch tokens are not normalised.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from eval.text import did_you_mean
from feature_extraction.encoders.architecture import Architecture, Checkpoint
from feature_extraction.encoders.checkpoint_files import is_present
from feature_extraction.encoders.library_guard import guard_library_call
from feature_extraction.encoders.open_clip_weights import (
    CONFIG_NAME,
    QUICK_GELU_SUFFIX,
    fetch,
    has_activation_choice,
    is_resnet,
    list_tags,
    load_state,
    matching_tags,
    parse_normalisation,
    pretrained_config,
    read_config,
    read_visual_state,
)
from feature_extraction.encoders.weights import FILE_PREFIX, seeded, state_sha256
from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

# B images, C channels, H rows and W columns of the grid, S image size

__all__ = ["OpenClipArchitecture"]

WEIGHTS_NAME = "open_clip_model.safetensors"

DEFAULT_IMAGE_SIZE = 224
RESNET_STRIDE = 32

# open_clip builds an image tower only together with a text tower; this tiny one is discarded.
SMALLEST_TEXT_TOWER = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}


@dataclass(frozen=True, kw_only=True)
class OpenClipArchitecture(Architecture):
    """The image tower of an open_clip model.

    Args:
        model: Name of the model in open_clip; `None` for a folder.
        config: `model_cfg` of open_clip; only `embed_dim`, `quick_gelu` and `vision_cfg` are used.
    """

    model: str | None
    config: Mapping[str, Any]

    @classmethod
    def from_name(cls, model: str, name: str, weights: str | None = None) -> Self:
        """Return a built-in model of open_clip.

        Args:
            model: Name of the model in open_clip.
            name: Name of the encoder.
            weights: Tag of the default weights. Default: the tag trained with the model's
                activation, if there is exactly one.

        Raises:
            EncoderError: open_clip has no such model.
        """
        if model not in open_clip.list_models():
            raise EncoderError(
                f"open_clip has no model {model!r}: expected one that open_clip.list_models() lists"
                f"{did_you_mean(model, open_clip.list_models())}"
            )
        config = open_clip.get_model_config(model)
        matching = matching_tags(model, config)
        if weights is None and len(matching) == 1:
            weights = matching[0]
        candidates = {
            parse_normalisation(pretrained_config(model, tag))
            for tag in ([weights] if weights else matching or list_tags(model))
        } or {parse_normalisation({})}
        return cls._from_config(
            config,
            model,
            name=name,
            model=model,
            default_weights=weights,
            normalisation=candidates.pop() if len(candidates) == 1 else None,
        )

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read a folder with `open_clip_config.json` and `open_clip_model.safetensors`.

        Raises:
            EncoderError: The configuration is not in open_clip's format.
        """
        config = read_config(folder / CONFIG_NAME)
        return cls._from_config(
            config["model_cfg"],
            str(folder / CONFIG_NAME),
            name=folder.resolve().name,
            model=None,
            default_weights=folder / WEIGHTS_NAME,
            normalisation=parse_normalisation(config.get("preprocess_cfg", {})),
        )

    @classmethod
    def _from_config(cls, config: Mapping[str, Any], source: str, **fields: Any) -> Self:
        vision = config["vision_cfg"]
        image_size = vision.get("image_size", DEFAULT_IMAGE_SIZE)
        if not isinstance(image_size, int) or image_size < 1:
            raise EncoderError(f"{source}: image_size is {image_size}, expected one number")
        return cls(
            image_size=image_size,
            quick_gelu=bool(config.get("quick_gelu", False)),
            packages=("timm",) if "timm_model_name" in vision else (),
            config=config,
            **fields,
        )

    def cell_size(self) -> int:
        """Return the number of pixels from one grid cell to the next."""
        with torch.device("meta"):
            visual = self.build(self.image_size)
        if isinstance(visual, ModifiedResNet):
            return RESNET_STRIDE
        if isinstance(visual, TimmModel):
            return int(cast(Any, visual.trunk).feature_info[-1]["reduction"])
        return int(cast(Any, visual).patch_size[0])

    def features(self, module: nn.Module, pixels_B3SS: Tensor, layer: Layer) -> Tensor:
        """See `Architecture.features`."""
        forward_intermediates = cast(Any, module).forward_intermediates
        if layer == "pooled":
            _require_pool_for(module, pixels_B3SS.shape[-1], self.name)
            pooled_BC: Tensor = forward_intermediates(pixels_B3SS, indices=1)["image_features"]
            return pooled_BC[:, :, None, None]
        output = forward_intermediates(
            pixels_B3SS,
            indices=1,
            normalize_intermediates=not _normalises_after_pool(module),
            intermediates_only=True,
        )
        grid_BCHW: Tensor = output["image_intermediates"][-1]
        return grid_BCHW

    @property
    def _description(self) -> Mapping[str, Any]:
        vision = {k: v for k, v in self.config["vision_cfg"].items() if k != "image_size"}
        return {
            "embed_dim": self.config["embed_dim"],
            "quick_gelu": self.quick_gelu,
            "vision_cfg": vision,
        }

    def _build(self, side: int) -> nn.Module:
        vision = dict(self.config["vision_cfg"])
        if "timm_model_name" in vision:
            vision["timm_model_pretrained"] = False
        if not is_resnet(vision):
            # A ResNet keeps its default size: only its attention pool depends on it.
            vision["image_size"] = side

        def cannot_build(reason: str) -> EncoderError:
            return EncoderError(
                f"open_clip cannot build the encoder {self.name}: {reason}. Its vision_cfg is "
                f"{json.dumps(vision):.400}"
            )

        with guard_library_call(cannot_build):
            model = open_clip.CLIP(
                embed_dim=self.config["embed_dim"],
                vision_cfg=vision,
                text_cfg=SMALLEST_TEXT_TOWER,
                quick_gelu=self.quick_gelu,
            )
        return cast(nn.Module, model.visual)

    def _set_input_size(self, module: nn.Module, side: int) -> None:
        if isinstance(module, TimmModel):
            module.set_input_size(side)

    def _read(self, source: str | Path) -> Checkpoint:
        tag = pretrained_config(self.model, str(source))
        path, normalisation = Path(source), None
        if tag:
            self._check_tag_activation(f"tag {source}", tag)
            name, path = str(source), fetch(str(source), tag)
            normalisation = parse_normalisation(tag)
        elif not path.exists():
            raise self._unknown_weights(source, list_tags(self.model))
        else:
            name, config_path = FILE_PREFIX + path.name, path.parent / CONFIG_NAME
            if is_present(config_path):
                config = read_config(config_path)
                self._check_tag_activation(
                    f"file {path}, according to the {CONFIG_NAME} next to it", config["model_cfg"]
                )
                if "preprocess_cfg" in config:
                    normalisation = parse_normalisation(config["preprocess_cfg"])
        state = read_visual_state(path)
        return Checkpoint(
            name=name, state=state, sha256=state_sha256(state), normalisation=normalisation
        )

    def _build_with(
        self, checkpoint: Checkpoint, meta_module: nn.Module, side: int, layer: Layer
    ) -> nn.Module:
        with seeded():
            visual = self._build(side)
        load_state(visual, checkpoint.state, checkpoint.name)
        return visual

    def _check_tag_activation(self, weights: str, described: Mapping[str, Any]) -> None:
        if has_activation_choice(self.config):
            self._check_activation(weights, bool(described.get("quick_gelu")))

    def _no_default_weights(self) -> str:
        advice = "Choose one with --weights, or give a .safetensors file."
        if matching := matching_tags(self.model, self.config):
            return f"{self.name} has several pretrained weights: {', '.join(matching)}. {advice}"
        if others := list_tags(self.model):
            here, there = ("QuickGELU", "GELU") if self.quick_gelu else ("GELU", "QuickGELU")
            twin = f"{self.model}{QUICK_GELU_SUFFIX}"
            is_known = not self.quick_gelu and open_clip.get_model_config(twin) is not None
            return (
                f"{self.name} has no pretrained weights for its activation: it computes {here}, "
                f"but {', '.join(others)} were trained with {there}. "
                + (f"Use {twin} with them." if is_known else advice)
            )
        return f"{self.name} has no pretrained weights in open_clip. {advice}"


def _normalises_after_pool(visual: nn.Module) -> bool:
    return (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is not None
        and visual.attn_pool_contrastive is None
    )


def _require_pool_for(visual: nn.Module, side: int, name: str) -> None:
    if isinstance(visual, ModifiedResNet) and side != visual.image_size:
        raise EncoderError(
            f"the attention pool of {name} requires images of {visual.image_size} pixels, found "
            f"{side}: use --image-size {visual.image_size} with the pooled layer, or the grid layer"
        )
