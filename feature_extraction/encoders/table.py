"""The encoder table: towers by the names people know them by; light to import."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ENCODERS", "MAX_IMAGE_SIZE", "EncoderRow"]

# A square with sides of this many pixels takes 192 MiB as bytes, and its features far more.
MAX_IMAGE_SIZE = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderRow:
    """One line of the table: a tower and what belongs to it.

    Args:
        model: The architecture, activation included: open_clip's name of it, or `timm:NAME`.
        weights: Default tag of its pretrained weights.
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
    "ViT-B-16-SigLIP2": EncoderRow(
        model="ViT-B-16-SigLIP2", weights="webli", quick_gelu=False,
        grid=(14, 14), channels=768, pooled_channels=768,
    ),
    "DINOv2-B-14": EncoderRow(
        model="timm:vit_base_patch14_dinov2", weights="lvd142m", quick_gelu=False,
        grid=(16, 16), channels=768, pooled_channels=768,
    ),
}  # fmt: skip
