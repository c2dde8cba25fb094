"""The encoder table: one row per encoder that has a short name.

To add an encoder, add a row. The tests compare its last three fields with the encoder itself.
"""

from collections.abc import Mapping
from typing import NamedTuple

__all__ = [
    "ENCODERS",
    "MAX_IMAGE_SIZE",
    "TABLE_IMAGE_SIZE",
    "VISION_LANGUAGE_EXAMPLE",
    "EncoderRow",
]

# An RGB square of this size takes 192 MiB as bytes, and its features far more.
MAX_IMAGE_SIZE = 8192

# Default image size of all encoders of the table, in pixels.
TABLE_IMAGE_SIZE = 224

# An encoder with language tokens, for messages.
VISION_LANGUAGE_EXAMPLE = "hf:Salesforce/blip2-flan-t5-xl"


class EncoderRow(NamedTuple):
    """A row of the encoder table.

    Args:
        model: open_clip model, or `timm:NAME`; the weights must be trained with its activation.
        weights: Tag of the default pretrained weights.
        grid: Rows and columns of the grid at `TABLE_IMAGE_SIZE`.
        channels: Channels per grid cell.
        pooled_channels: Length of the pooled vector.
    """

    model: str
    weights: str
    grid: tuple[int, int]
    channels: int
    pooled_channels: int


ENCODERS: Mapping[str, EncoderRow] = {
    # encoder                      model                           weights    grid      channels
    "RN50":             EncoderRow("RN50-quickgelu",               "openai",  (7, 7),   2048, 1024),
    "RN101":            EncoderRow("RN101-quickgelu",              "openai",  (7, 7),   2048, 512),
    "RN50x4":           EncoderRow("RN50x4-quickgelu",             "openai",  (7, 7),   2560, 640),
    "ViT-B-32":         EncoderRow("ViT-B-32-quickgelu",           "openai",  (7, 7),   768,  512),
    "ViT-B-16":         EncoderRow("ViT-B-16-quickgelu",           "openai",  (14, 14), 768,  512),
    "ViT-L-14":         EncoderRow("ViT-L-14-quickgelu",           "openai",  (16, 16), 1024, 768),
    "ViT-B-16-SigLIP":  EncoderRow("ViT-B-16-SigLIP",              "webli",   (14, 14), 768,  768),
    "ViT-B-16-SigLIP2": EncoderRow("ViT-B-16-SigLIP2",             "webli",   (14, 14), 768,  768),
    "DINOv2-B-14":      EncoderRow("timm:vit_base_patch14_dinov2", "lvd142m", (16, 16), 768,  768),
}  # fmt: skip
