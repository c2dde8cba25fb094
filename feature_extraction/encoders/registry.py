"""How a tower is found: by its line in the encoder table, by library and name, by folder.

    RN101, ViT-B-16, ...         a line of the table
    NAME, open_clip:NAME         any model of open_clip
    timm:NAME, timm:OWNER/NAME   any model of timm, or a repository timm wrote
    hf:OWNER/NAME                a vision model of transformers, on the Hugging Face hub
    FOLDER                       a tower on disk, as one of the three libraries writes it

Whatever the library, a tower is used through `Tower`. It gives its features as a map: at `grid`
the cells of the last layer, class tokens and the like left out, at `pooled` one vector for the
whole image, not scaled to unit length. The library's module says where each is taken.
"""

import dataclasses
import difflib
from pathlib import Path
from typing import Protocol

import open_clip
import torch
from torch import Tensor, nn

from feature_extraction.encoders import huggingface as huggingface_towers
from feature_extraction.encoders import open_clip as open_clip_towers
from feature_extraction.encoders import timm as timm_towers
from feature_extraction.encoders.library_calls import library_call
from feature_extraction.encoders.model_files import read_json_object
from feature_extraction.encoders.open_clip_weights import CONFIG_NAME as OPEN_CLIP_CONFIG
from feature_extraction.encoders.table import ENCODERS, EncoderRow
from feature_extraction.encoders.weights import LoadedTower
from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

# B images, C channels, H rows and W columns of the grid, S image side

__all__ = ["Tower", "find_tower", "is_named", "output_shape"]

TABLE_IMAGE_SIZE = 224
CONFIG_NAME = "config.json"
OPEN_CLIP_PREFIX = "open_clip:"
PREFIXES = (OPEN_CLIP_PREFIX, timm_towers.PREFIX, huggingface_towers.PREFIX)


class Tower(Protocol):
    """An architecture and what comes with it, whatever library it is of."""

    @property
    def name(self) -> str:
        """What the encoder is called."""

    @property
    def image_size(self) -> int:
        """Side of its images in pixels, unless another is asked for."""

    @property
    def default_weights(self) -> str | Path | None:
        """Tag, file or folder; `None` where they have to be named."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages that compute it, beside PyTorch and open_clip."""

    @property
    def quick_gelu(self) -> bool:
        """Whether its transformer blocks use QuickGELU."""

    @property
    def architecture_sha256(self) -> str:
        """Hash of the architecture: same hash, same computation; the image size is apart."""

    def cell(self) -> int:
        """Pixels from one cell of the grid to the next."""

    def build(self, side: int) -> nn.Module:
        """Build the tower for images of `side` pixels, freshly initialised."""

    def load(self, side: int, layer: Layer, weights: str | Path | None) -> LoadedTower:
        """Build the tower with its weights: a tag, a file, `random`, or `None` for its own."""

    def features(self, module: nn.Module, pixels_B3SS: Tensor, layer: Layer) -> Tensor:
        """Return what the tower gives at `layer`, `[B, C, H, W]`; pooled, H and W are 1."""


def find_tower(encoder: str | Path) -> Tower:
    """Find a tower by what this module's head lists.

    Raises:
        EncoderError: There is none such.
    """
    name = str(encoder)
    row = ENCODERS.get(name)
    if row is not None:
        return _tower_of_row(name, row)
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return _tower_of_library(prefix, name.removeprefix(prefix), name)
    if name in open_clip.list_models():
        return open_clip_towers.named_tower(name, name)
    # An empty name would be the current folder.
    if name and Path(encoder).is_dir():
        return _tower_of_folder(Path(encoder))
    near = difflib.get_close_matches(name, {*ENCODERS, *open_clip.list_models()}, n=3)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    raise EncoderError(
        f"no encoder {name!r}.{meant} There are {', '.join(ENCODERS)}; any other model of "
        "open_clip by its name; timm:NAME and hf:OWNER/NAME; or give a folder that one of these "
        "libraries wrote."
    )


def is_named(encoder: str) -> bool:
    """Whether `find_tower` knows it without a folder."""
    return encoder in ENCODERS or encoder.startswith(PREFIXES) or encoder in open_clip.list_models()


def output_shape(tower: Tower, side: int, layer: Layer) -> tuple[tuple[int, int], int]:
    """Tell the grid (rows, columns) and channels a tower gives, without computing anything.

    Args:
        tower: The tower.
        side: Of the images, in pixels.
        layer: `grid` or `pooled`.

    Raises:
        EncoderError: It cannot take such images, or has no such features.
    """
    own = f"use its own --image-size {tower.image_size}, or " if side != tower.image_size else ""

    def gives_none(reason: str) -> EncoderError:
        return EncoderError(
            f"the tower {tower.name} gives no {layer} features of images of {side} pixels "
            f"({reason}): {own}take the other layer or another tower"
        )

    if side != tower.image_size:
        with library_call(gives_none):
            cell = tower.cell()
        _require_whole_cells(tower.name, cell, side)
    with torch.device("meta"):
        module = tower.build(side).eval()
        pixels_13SS = torch.empty(1, 3, side, side)
    with library_call(gives_none):
        _, channels, rows, columns = tower.features(module, pixels_13SS, layer).shape
    return (rows, columns), channels


def _require_whole_cells(name: str, cell: int, side: int) -> None:
    if side < cell or side % cell:
        near = max(cell, round(side / cell) * cell)
        raise EncoderError(
            f"image size {side} does not suit {name}, whose cells are {cell} pixels "
            f"wide: take a multiple of {cell}, such as {near}"
        )


def _tower_of_row(name: str, row: EncoderRow) -> Tower:
    if row.model.startswith(timm_towers.PREFIX):
        model = f"{row.model.removeprefix(timm_towers.PREFIX)}.{row.weights}"
        of_timm = timm_towers.named_tower(model, name)
        return dataclasses.replace(of_timm, image_size=TABLE_IMAGE_SIZE)
    of_open_clip = open_clip_towers.named_tower(row.model, name, row.weights)
    return dataclasses.replace(of_open_clip, image_size=TABLE_IMAGE_SIZE)


def _tower_of_library(prefix: str, rest: str, name: str) -> Tower:
    if rest and Path(rest).is_dir():
        return _tower_of_folder(Path(rest))
    if prefix == timm_towers.PREFIX:
        return timm_towers.named_tower(rest, name)
    if prefix == huggingface_towers.PREFIX:
        return huggingface_towers.named_tower(rest, name)
    if rest not in open_clip.list_models():
        near = difflib.get_close_matches(rest, open_clip.list_models(), n=3)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise EncoderError(
            f"open_clip has no model {rest!r}.{meant} open_clip.list_models() lists those it has."
        )
    return open_clip_towers.named_tower(rest, name)


def _tower_of_folder(folder: Path) -> Tower:
    """Read a folder, told by its configuration which library wrote it."""
    if (folder / OPEN_CLIP_CONFIG).exists():
        return open_clip_towers.tower_of_folder(folder)
    path = folder / CONFIG_NAME
    if not path.exists():
        raise EncoderError(
            f"no {OPEN_CLIP_CONFIG} and no {path.name} in {folder}: a tower's folder "
            "holds one of them, and its weights as safetensors"
        )
    if "architecture" in read_json_object(path):
        return timm_towers.tower_of_folder(folder)
    return huggingface_towers.tower_of_folder(folder)
