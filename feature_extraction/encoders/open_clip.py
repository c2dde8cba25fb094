"""Towers of open_clip: those it has by name, and whatever a folder of its kind describes.

Features are taken through the tower's own `forward_intermediates`. `grid` is the output of
`layer4` of a ResNet, and the patch tokens of a transformer's last block after its final
normalisation (`ln_post`; `norm` in timm's). CoCa's transformers normalise only what their
attention pool makes of the patch tokens: those are taken as they are.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from feature_extraction.encoders.library_calls import library_call
from feature_extraction.encoders.model_files import is_present
from feature_extraction.encoders.open_clip_weights import (
    CONFIG_NAME,
    QUICK_GELU_SUFFIX,
    fetch,
    fitting_tags,
    has_activation_choice,
    is_resnet,
    load_state,
    normalisation_of,
    pretrained_config,
    read_config,
    tags_of,
    visual_state,
)
from feature_extraction.encoders.weights import (
    FILE_PREFIX,
    RANDOM,
    LoadedTower,
    Normalisation,
    require_same_size,
    seeded,
    state_sha256,
)
from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

# B images, C channels, H rows and W columns of the grid, S image side

__all__ = ["OpenClipTower", "named_tower", "tower_of_folder"]

WEIGHTS_NAME = "open_clip_model.safetensors"

DEFAULT_IMAGE_SIZE = 224
RESNET_STRIDE = 32

# open_clip builds a tower together with a text tower: the smallest is asked for, and dropped.
SMALLEST_TEXT_TOWER = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenClipTower:
    """An architecture of open_clip, and what comes with it.

    Args:
        name: Of the encoder.
        model: open_clip's name of the architecture; `None` for a folder's.
        config: open_clip's `model_cfg`; only `embed_dim`, `quick_gelu` and `vision_cfg` are used.
        image_size: Side of its images in pixels, unless another is asked for.
        default_weights: Tag, or file; `None` where open_clip has no tag of its own choice.
        normalisation: Mean and standard deviation, unless the weights have their own; `None`
            where open_clip's weights for it differ in that.
    """

    name: str
    model: str | None
    config: Mapping[str, Any]
    image_size: int
    default_weights: str | Path | None
    normalisation: Normalisation | None

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages that compute it, beside PyTorch and open_clip."""
        return ("timm",) if "timm_model_name" in self.config["vision_cfg"] else ()

    @property
    def quick_gelu(self) -> bool:
        """Whether its transformer blocks use QuickGELU."""
        return bool(self.config.get("quick_gelu", False))

    @property
    def architecture_sha256(self) -> str:
        """Hash of the configuration: same hash, same computation; the image size is apart."""
        vision = {k: v for k, v in self.config["vision_cfg"].items() if k != "image_size"}
        described = {
            "embed_dim": self.config["embed_dim"],
            "quick_gelu": self.quick_gelu,
            "vision_cfg": vision,
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def cell(self) -> int:
        """Pixels from one cell of the grid to the next."""
        with torch.device("meta"):
            visual = self.build(self.image_size)
        if isinstance(visual, ModifiedResNet):
            return RESNET_STRIDE
        if isinstance(visual, TimmModel):
            return int(cast(Any, visual.trunk).feature_info[-1]["reduction"])
        return int(cast(Any, visual).patch_size[0])

    def build(self, side: int) -> nn.Module:
        """Build the tower for images of `side` pixels, freshly initialised.

        Raises:
            EncoderError: open_clip cannot build what the configuration describes.
        """
        visual = self._build(side)
        _fit(visual, side)
        return visual

    def load(self, side: int, layer: Layer, weights: str | Path | None) -> LoadedTower:
        """Build the tower with its weights.

        Args:
            side: Of its images, in pixels.
            layer: Which features will be asked of it.
            weights: A tag of open_clip's, a `.safetensors` file, or `random`; `None` takes
                `default_weights`.

        Raises:
            EncoderError: The weights are not known, not safe to read, damaged, cannot be fetched,
                do not fit, or were trained with another activation.
        """
        source = self.default_weights if weights is None else weights
        if source is None:
            raise EncoderError(
                f"{self.name} has {self._described_tags()}: say which by --weights, or give it a "
                ".safetensors file"
            )
        if source == RANDOM:
            name, state, normalisation = RANDOM, None, None
        else:
            name, state, normalisation = self._read(source)
        normalisation = normalisation or self.normalisation
        if normalisation is None:
            raise EncoderError(
                f"open_clip's own weights for {self.name} differ in their normalisation, and "
                f"nothing says which of them {source} had: put its {CONFIG_NAME} beside it"
            )
        if state is not None:
            with torch.device("meta"):
                require_same_size(self._build(side), state, name)
        with seeded():
            visual = self._build(side)
        sha256 = state_sha256(visual.state_dict() if state is None else state)
        if state is not None:
            load_state(visual, state, name)
        _fit(visual, side)
        return LoadedTower(
            module=visual, weights=name, weights_sha256=sha256, normalisation=normalisation
        )

    def features(self, visual: nn.Module, pixels_B3SS: Tensor, layer: Layer) -> Tensor:
        """Return what the tower gives at `layer`, `[B, C, H, W]`.

        Raises:
            EncoderError: The images are of a size its attention pool is not made for.
        """
        forward_intermediates = cast(Any, visual).forward_intermediates
        if layer == "pooled":
            _require_pool_for(visual, pixels_B3SS.shape[-1], self.name)
            pooled_BC: Tensor = forward_intermediates(pixels_B3SS, indices=1)["image_features"]
            return pooled_BC[:, :, None, None]
        output = forward_intermediates(
            pixels_B3SS,
            indices=1,
            normalize_intermediates=not _normalises_after_pool(visual),
            intermediates_only=True,
        )
        grid_BCHW: Tensor = output["image_intermediates"][-1]
        return grid_BCHW

    def _build(self, side: int) -> nn.Module:
        vision = dict(self.config["vision_cfg"])
        if "timm_model_name" in vision:
            vision["timm_model_pretrained"] = False
        if not is_resnet(vision):
            # A ResNet keeps its own size: only its attention pool depends on it.
            vision["image_size"] = side

        def cannot_build(reason: str) -> EncoderError:
            return EncoderError(
                f"open_clip cannot build the encoder {self.name}: {reason}; see its "
                f"vision_cfg: {json.dumps(vision):.400}"
            )

        with library_call(cannot_build):
            model = open_clip.CLIP(
                embed_dim=self.config["embed_dim"],
                vision_cfg=vision,
                text_cfg=SMALLEST_TEXT_TOWER,
                quick_gelu=self.quick_gelu,
            )
        return cast(nn.Module, model.visual)

    def _read(self, source: str | Path) -> tuple[str, dict[str, Tensor], Normalisation | None]:
        tag = pretrained_config(self.model, str(source))
        if tag:
            self._check_activation(f"tag {source}", bool(tag.get("quick_gelu")))
            file = fetch(str(source), tag)
            return str(source), visual_state(file), normalisation_of(tag)
        path = Path(source)
        if not path.exists():
            raise EncoderError(
                f"weights {source!s}: no such file, and no tag of this encoder (its tags: "
                f"{', '.join(tags_of(self.model)) or 'none'}). Give a tag, a .safetensors file, or "
                f"{RANDOM!r}."
            )
        normalisation = None
        neighbour = path.parent / CONFIG_NAME
        if is_present(neighbour):
            config = read_config(neighbour)
            self._check_activation(
                f"file {path}, by the {CONFIG_NAME} beside it,",
                bool(config["model_cfg"].get("quick_gelu")),
            )
            if "preprocess_cfg" in config:
                normalisation = normalisation_of(config["preprocess_cfg"])
        return FILE_PREFIX + path.name, visual_state(path), normalisation

    def _check_activation(self, what: str, trained_with: bool) -> None:
        if has_activation_choice(self.config) and trained_with != self.quick_gelu:
            names = {True: "QuickGELU", False: "GELU"}
            raise EncoderError(
                f"the weights ({what}) were trained with {names[trained_with]}, the encoder "
                f"computes {names[self.quick_gelu]}: its features would be silently wrong. Choose "
                "weights or an encoder that agree."
            )

    def _described_tags(self) -> str:
        fitting = fitting_tags(self.model, self.config)
        if fitting:
            return f"several pretrained weights ({', '.join(fitting)})"
        if others := tags_of(self.model):
            here, there = ("QuickGELU", "GELU") if self.quick_gelu else ("GELU", "QuickGELU")
            twin = f"{self.model}{QUICK_GELU_SUFFIX}"
            known = not self.quick_gelu and open_clip.get_model_config(twin) is not None
            hint = f", which {twin} is for" if known else ""
            return (
                f"no pretrained weights for its activation: it computes {here}, and "
                f"{', '.join(others)} were trained with {there}{hint}"
            )
        return "no pretrained weights in open_clip"


def named_tower(model: str, name: str, weights: str | None = None) -> OpenClipTower:
    """Take an architecture of open_clip's list.

    Args:
        model: open_clip's name of it.
        name: What the encoder is called.
        weights: Tag of its weights; `None` takes the only one that suits its activation.

    Raises:
        EncoderError: open_clip says less of it than is needed.
    """
    config = open_clip.get_model_config(model)
    fitting = fitting_tags(model, config)
    if weights is None and len(fitting) == 1:
        weights = fitting[0]
    of_tags = {
        normalisation_of(pretrained_config(model, tag))
        for tag in ([weights] if weights else fitting or tags_of(model))
    }
    normalisation = of_tags.pop() if of_tags else normalisation_of({})
    return OpenClipTower(
        name=name,
        model=model,
        config=config,
        image_size=_image_size(config, model),
        default_weights=weights,
        normalisation=None if of_tags else normalisation,
    )


def tower_of_folder(folder: Path) -> OpenClipTower:
    """Read a folder with `open_clip_config.json` and `open_clip_model.safetensors`.

    Raises:
        EncoderError: The configuration is not what open_clip writes.
    """
    config = read_config(folder / CONFIG_NAME)
    return OpenClipTower(
        name=folder.resolve().name,
        model=None,
        config=config["model_cfg"],
        image_size=_image_size(config["model_cfg"], str(folder / CONFIG_NAME)),
        default_weights=folder / WEIGHTS_NAME,
        normalisation=normalisation_of(config.get("preprocess_cfg", {})),
    )


def _image_size(config: Mapping[str, Any], source: str) -> int:
    size = config["vision_cfg"].get("image_size", DEFAULT_IMAGE_SIZE)
    if not isinstance(size, int) or size < 1:
        raise EncoderError(f"{source}: image_size is {size}, expected one number")
    return size


def _fit(visual: nn.Module, side: int) -> None:
    """Fit timm's towers, which are built at their own size, to images of `side` pixels."""
    if isinstance(visual, TimmModel):
        visual.set_input_size(side)


def _normalises_after_pool(visual: nn.Module) -> bool:
    return (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is not None
        and visual.attn_pool_contrastive is None
    )


def _require_pool_for(visual: nn.Module, side: int, name: str) -> None:
    if isinstance(visual, ModifiedResNet) and side != visual.image_size:
        raise EncoderError(
            f"the attention pool of {name} is made for images of {visual.image_size} pixels: use "
            f"--image-size {visual.image_size} with the pooled layer, or the grid layer with {side}"
        )
