"""Architectures of vision towers: those of the table, and whatever an open_clip folder describes.

One table pins what must belong together: architecture, activation, weights, and the grid that
comes out. Features are taken through the tower's own `forward_intermediates`:

* `grid`, ResNet towers: the output of `layer4`, after its last ReLU, before the attention pool;
* `grid`, transformer towers: the patch tokens of the last block after the tower's final
  normalisation (`ln_post`; `norm` in timm's), without the class token. The states before it have
  a few channels far larger than the rest, which float16 and a linear layer bear ill;
* `pooled`: what the tower returns for the whole image, not scaled to unit length.
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
from torch import Tensor, nn

from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

# B images, C channels, H rows and W columns of the grid, V = H * W tokens, S image side

__all__ = [
    "CONFIG_NAME",
    "ENCODERS",
    "EncoderRow",
    "Normalisation",
    "Tower",
    "find_tower",
    "normalisation_of",
    "read_config",
    "tower_features",
]

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"

DEFAULT_IMAGE_SIZE = 224
RESNET_STRIDE = 32

# open_clip builds a tower together with a text tower: the smallest is asked for, and dropped.
SMALLEST_TEXT_TOWER = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderRow:
    """One line of the table: a tower and what belongs to it.

    Args:
        model: open_clip's name of the architecture, activation included.
        weights: Default tag of open_clip's pretrained weights.
        quick_gelu: Whether the weights were trained with QuickGELU.
        grid: Rows and columns of cells for an image of 224 x 224.
        channels: Numbers per cell.
        pooled_channels: Numbers of the pooled vector.
    """

    model: str
    weights: str
    quick_gelu: bool
    grid: tuple[int, int]
    channels: int
    pooled_channels: int


ENCODERS: Mapping[str, EncoderRow] = {
    "RN50": EncoderRow(
        model="RN50-quickgelu", weights="openai", quick_gelu=True,
        grid=(7, 7), channels=2048, pooled_channels=1024,
    ),
    "RN101": EncoderRow(
        model="RN101-quickgelu", weights="openai", quick_gelu=True,
        grid=(7, 7), channels=2048, pooled_channels=512,
    ),
    "RN50x4": EncoderRow(
        model="RN50x4-quickgelu", weights="openai", quick_gelu=True,
        grid=(7, 7), channels=2560, pooled_channels=640,
    ),
    "ViT-B-32": EncoderRow(
        model="ViT-B-32-quickgelu", weights="openai", quick_gelu=True,
        grid=(7, 7), channels=768, pooled_channels=512,
    ),
    "ViT-B-16": EncoderRow(
        model="ViT-B-16-quickgelu", weights="openai", quick_gelu=True,
        grid=(14, 14), channels=768, pooled_channels=512,
    ),
    "ViT-L-14": EncoderRow(
        model="ViT-L-14-quickgelu", weights="openai", quick_gelu=True,
        grid=(16, 16), channels=1024, pooled_channels=768,
    ),
    "ViT-B-16-SigLIP": EncoderRow(
        model="ViT-B-16-SigLIP", weights="webli", quick_gelu=False,
        grid=(14, 14), channels=768, pooled_channels=768,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """An architecture, and what comes with it.

    Args:
        name: Of the encoder.
        model: open_clip's name of the architecture; `None` for a folder's.
        config: open_clip's `model_cfg`; only `embed_dim`, `quick_gelu` and `vision_cfg` are used.
        image_size: Side of its images in pixels, unless another is asked for.
        default_weights: Tag, or file.
        normalisation: Mean and standard deviation, unless the weights have their own.
    """

    name: str
    model: str | None
    config: Mapping[str, Any]
    image_size: int
    default_weights: str | Path
    normalisation: Normalisation

    @property
    def quick_gelu(self) -> bool:
        """Whether its transformer blocks use QuickGELU."""
        return bool(self.config.get("quick_gelu", False))

    @property
    def has_activation_choice(self) -> bool:
        """Whether `quick_gelu` reaches it: open_clip's ResNets use ReLU, timm's towers GELU."""
        vision = self.config["vision_cfg"]
        return "timm_model_name" not in vision and not _is_resnet(vision)

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

    def build(self, side: int) -> nn.Module:
        """Build the tower for images of `side` pixels, freshly initialised.

        Raises:
            EncoderError: open_clip cannot build what the configuration describes.
        """
        vision = dict(self.config["vision_cfg"])
        if "timm_model_name" in vision:
            vision["timm_model_pretrained"] = False
        if not _is_resnet(vision):
            # A ResNet keeps its own size: only its attention pool depends on it.
            vision["image_size"] = side
        try:
            model = open_clip.CLIP(
                embed_dim=self.config["embed_dim"],
                vision_cfg=vision,
                text_cfg=SMALLEST_TEXT_TOWER,
                quick_gelu=self.quick_gelu,
            )
        except (
            ArithmeticError,
            AssertionError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise EncoderError(
                f"open_clip cannot build the encoder {self.name}: {error}; see its "
                f"vision_cfg: {json.dumps(vision)}"
            ) from error
        return cast(nn.Module, model.visual)

    def output_shape(self, side: int, layer: Layer) -> tuple[tuple[int, int], int]:
        """Tell the grid (rows, columns) and channels it gives, without computing anything.

        Raises:
            EncoderError: It cannot take images of `side` pixels.
        """
        with torch.device("meta"):
            visual = self.build(side).eval()
        stride = _stride(visual)
        if side < stride or side % stride:
            near = max(stride, round(side / stride) * stride)
            raise EncoderError(
                f"image size {side} does not suit {self.name}, whose cells are {stride} pixels "
                f"wide: take a multiple of {stride}, such as {near}"
            )
        own_size = getattr(visual, "image_size", side)
        if layer == "pooled" and isinstance(visual, ModifiedResNet) and side != own_size:
            raise EncoderError(
                f"the attention pool of {self.name} is made for images of {own_size} pixels: use "
                f"--image-size {own_size} with the pooled layer, or the grid layer with {side}"
            )
        if isinstance(visual, TimmModel):
            visual.set_input_size(side)
        pixels_B3SS = torch.empty(1, 3, side, side, device="meta")
        try:
            features_BVC = tower_features(visual, pixels_B3SS, layer)
        except (AttributeError, RuntimeError) as error:
            raise EncoderError(
                f"the tower {self.name} gives no {layer} features through open_clip's "
                f"forward_intermediates: {error}"
            ) from error
        cells = side // stride
        grid = (1, 1) if layer == "pooled" else (cells, cells)
        return grid, features_BVC.shape[-1]


def find_tower(encoder: str | Path) -> Tower:
    """Look up a name of the table, or read a folder.

    Args:
        encoder: The name, or a folder with `open_clip_config.json` and
            `open_clip_model.safetensors`, as open_clip's own `local-dir:` takes it.

    Raises:
        EncoderError: It is neither.
    """
    row = ENCODERS.get(str(encoder))
    if row is not None:
        return Tower(
            name=str(encoder),
            model=row.model,
            config=open_clip.get_model_config(row.model),
            image_size=DEFAULT_IMAGE_SIZE,
            default_weights=row.weights,
            normalisation=normalisation_of(open_clip.get_pretrained_cfg(row.model, row.weights)),
        )
    folder = Path(encoder)
    if not folder.is_dir():
        raise EncoderError(
            f"no encoder {str(encoder)!r}: there are {', '.join(ENCODERS)}, or give a folder with "
            f"{CONFIG_NAME} and {WEIGHTS_NAME}"
        )
    config = read_config(folder / CONFIG_NAME)
    model = config["model_cfg"]
    size = model["vision_cfg"].get("image_size", DEFAULT_IMAGE_SIZE)
    if not isinstance(size, int):
        raise EncoderError(f"{folder / CONFIG_NAME}: image_size is {size}, expected one number")
    return Tower(
        name=folder.resolve().name,
        model=None,
        config=model,
        image_size=size,
        default_weights=folder / WEIGHTS_NAME,
        normalisation=normalisation_of(config.get("preprocess_cfg", {})),
    )


def normalisation_of(preprocess: Mapping[str, Any]) -> Normalisation:
    """Return mean and standard deviation of an open_clip preprocessing configuration."""
    mean = preprocess.get("mean", open_clip.OPENAI_DATASET_MEAN)
    std = preprocess.get("std", open_clip.OPENAI_DATASET_STD)
    return _triple(mean), _triple(std)


def read_config(path: Path) -> dict[str, Any]:
    """Read an `open_clip_config.json`.

    Returns:
        The JSON object, with at least `model_cfg` and in it `embed_dim` and `vision_cfg`.

    Raises:
        EncoderError: It is not there, or not what open_clip writes.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EncoderError(
            f"no {path}: a tower's folder holds {CONFIG_NAME} and its weights as safetensors"
        ) from None
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path} cannot be read as JSON: {error}") from None
    model = config.get("model_cfg") if isinstance(config, dict) else None
    if (
        not isinstance(model, dict)
        or not isinstance(model.get("vision_cfg"), dict)
        or not isinstance(model.get("embed_dim"), int)
    ):
        raise EncoderError(
            f"{path} lacks model_cfg.vision_cfg or model_cfg.embed_dim, which open_clip writes"
        )
    return cast(dict[str, Any], config)


def tower_features(visual: nn.Module, pixels_B3SS: Tensor, layer: Layer) -> Tensor:
    """Return what an open_clip tower gives at `layer`, `[B, V, C]`.

    Args:
        visual: An open_clip image tower: ModifiedResNet, VisionTransformer or TimmModel.
        pixels_B3SS: Normalised images.
        layer: `grid` or `pooled`, as this module's head defines them.
    """
    forward_intermediates = cast(Any, visual).forward_intermediates
    if layer == "pooled":
        pooled_BC: Tensor = forward_intermediates(pixels_B3SS, indices=1)["image_features"]
        return pooled_BC[:, None]
    output = forward_intermediates(
        pixels_B3SS, indices=1, normalize_intermediates=True, intermediates_only=True
    )
    grid_BCHW: Tensor = output["image_intermediates"][-1]
    return grid_BCHW.flatten(2).transpose(1, 2)


def _is_resnet(vision: Mapping[str, Any]) -> bool:
    return isinstance(vision.get("layers"), list | tuple)


def _stride(visual: nn.Module) -> int:
    if isinstance(visual, ModifiedResNet):
        return RESNET_STRIDE
    embedding = visual.trunk.patch_embed if isinstance(visual, TimmModel) else visual
    patch_size = cast(Any, embedding).patch_size
    return int(patch_size[0])


def _triple(values: Any) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError):
        raise EncoderError(
            f"mean and std should be three numbers each, found {values!r} in {CONFIG_NAME}"
        ) from None
    return red, green, blue
