"""Image encoders that a small language model reads: cells of another encoder, pooled and projected.

The folder is that of a vision-language model without a vision model of its own. Its
`image_encoder.json` names the folder of the image encoder next to it, and the side of the pooled
grid; `model.safetensors` holds the projection, `language_projection`:

    {"folder": "clip", "side": 4}
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from feature_extraction.encoders.architecture import Architecture, Checkpoint
from feature_extraction.encoders.checkpoint_files import (
    WEIGHTS_NAME,
    read_json_object,
    read_selected,
    read_shapes,
)
from feature_extraction.encoders.weights import FILE_PREFIX, projection_sha256, state_sha256
from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

# B images, C channels, D channels after the projection, H and W cells, R rows and columns of the
# pooled grid, P channels of positions, S image size

__all__ = ["CONFIG_NAME", "ProjectedArchitecture", "pool_with_positions"]

CONFIG_NAME = "image_encoder.json"
PROJECTION = "language_projection"
MAX_SIDE = 64
# Prefixes of the two parts in the state of the network.
INNER, OUTER = "encoder.", "projection."


def pool_with_positions(grid_BCHW: Tensor, side: int) -> Tensor:
    """Average a grid to `side` x `side` cells and append each cell's row and column, one-hot.

    A language model with relative positions has no other way to tell where in an image a cell is.

    Args:
        grid_BCHW: Features of an image encoder's cells.
        side: Number of rows and of columns of the pooled grid.

    Returns:
        `[B, C + 2 * side, side, side]`.
    """
    pooled_BCRR = functional.adaptive_avg_pool2d(grid_BCHW, side)
    rows_RRR = torch.eye(side, dtype=pooled_BCRR.dtype, device=pooled_BCRR.device)[:, :, None]
    rows_RRR = rows_RRR.expand(side, side, side)
    positions_BPRR = torch.cat((rows_RRR, rows_RRR.mT)).expand(len(grid_BCHW), -1, -1, -1)
    return torch.cat((pooled_BCRR, positions_BPRR), dim=1)


class _ProjectedEncoder(nn.Module):
    """An image encoder and the projection of its pooled cells."""

    def __init__(self, encoder: nn.Module, projection: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection


@dataclass(frozen=True, kw_only=True)
class ProjectedArchitecture(Architecture):
    """An image encoder whose cells are pooled and projected for a language model.

    Args:
        encoder: The image encoder.
        side: Number of rows and of columns of the pooled grid.
        in_channels: Channels that the projection reads.
        out_channels: Width of the language model.
    """

    encoder: Architecture
    side: int
    in_channels: int
    out_channels: int

    @classmethod
    def from_folder(cls, folder: Path, encoder: Architecture) -> Self:
        """Read a folder with `image_encoder.json` and `model.safetensors`.

        Args:
            folder: The folder.
            encoder: Encoder in the folder that `encoder_folder` returns.

        Raises:
            EncoderError: The files do not describe a projection.
        """
        path = folder / CONFIG_NAME
        side = read_json_object(path).get("side")
        if type(side) is not int or not 1 <= side <= MAX_SIDE:
            raise EncoderError(f"{path}: side is {side!r:.80}, expected 1 to {MAX_SIDE}")
        weight = read_shapes(folder / WEIGHTS_NAME).get(f"{PROJECTION}.weight")
        if weight is None or len(weight.shape) != 2:
            raise EncoderError(
                f"{folder / WEIGHTS_NAME} has no matrix {PROJECTION}.weight, which an encoder with "
                f"{CONFIG_NAME} requires"
            )
        out_channels, in_channels = weight.shape
        return cls(
            name=folder.resolve().name,
            image_size=encoder.image_size,
            default_weights=folder,
            normalisation=encoder.normalisation,
            quick_gelu=encoder.quick_gelu,
            packages=encoder.packages,
            encoder=encoder,
            side=side,
            in_channels=in_channels,
            out_channels=out_channels,
        )

    @staticmethod
    def encoder_folder(folder: Path) -> Path:
        """Return the folder of the image encoder that `image_encoder.json` names.

        Raises:
            EncoderError: It is not a folder next to this one, or it has no encoder of its own.
        """
        path = folder / CONFIG_NAME
        name = read_json_object(path).get("folder")
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
            raise EncoderError(
                f"{path}: folder is {name!r:.80}, expected the name of a folder next to {folder}"
            )
        found = folder.resolve().parent / name
        if not found.is_dir() or (found / CONFIG_NAME).exists():
            raise EncoderError(f"{path}: no image encoder in {found}")
        return found

    @property
    def layers(self) -> tuple[Layer, ...]:
        """See `Architecture.layers`."""
        return ("language",)

    def cell_size(self) -> int:
        """Return the number of pixels from one cell of the image encoder to the next."""
        return self.encoder.cell_size()

    def features(self, module: nn.Module, pixels_B3SS: Tensor, layer: Layer) -> Tensor:
        """See `Architecture.features`."""
        parts = cast(_ProjectedEncoder, module)
        grid_BCHW = self.encoder.features(parts.encoder, pixels_B3SS, "grid")
        cells_BCRR = pool_with_positions(grid_BCHW, self.side)
        tokens_BRRD: Tensor = parts.projection(cells_BCRR.movedim(1, -1))
        return tokens_BRRD.movedim(-1, 1)

    def projection_sha256(self, module: nn.Module) -> str:
        """See `Architecture.projection_sha256`."""
        return projection_sha256(cast(_ProjectedEncoder, module).projection.state_dict())

    @property
    def _description(self) -> Mapping[str, Any]:
        return {
            "encoder": self.encoder.architecture_sha256,
            "side": self.side,
            "projection": [self.in_channels, self.out_channels],
        }

    def _build(self, side: int) -> nn.Module:
        return _ProjectedEncoder(self.encoder.build(side), self._build_projection())

    def _build_projection(self) -> nn.Linear:
        return nn.Linear(self.in_channels, self.out_channels)

    def _read(self, source: str | Path) -> Checkpoint:
        if source != self.default_weights:
            raise EncoderError(
                f"the weights of {self.name} are those of its folder: found {source}. Leave out "
                "--weights."
            )
        default = self.encoder.default_weights
        assert default is not None, "an encoder in a folder has its weights there"
        inner = self.encoder._read(default)
        projection = read_selected(Path(source) / WEIGHTS_NAME, _name_in_projection)
        state = {
            **{INNER + name: tensor for name, tensor in inner.state.items()},
            **{OUTER + name: tensor.float() for name, tensor in projection.items()},
        }
        return Checkpoint(
            name=FILE_PREFIX + WEIGHTS_NAME,
            state=state,
            sha256=state_sha256(state),
            normalisation=inner.normalisation,
        )

    def _build_with(
        self, checkpoint: Checkpoint, meta_module: nn.Module, side: int, layer: Layer
    ) -> nn.Module:
        meta_encoder = cast(_ProjectedEncoder, meta_module).encoder
        inner = replace(checkpoint, state=_part(checkpoint.state, INNER))
        projection = self._build_projection()
        state = _part(checkpoint.state, OUTER)
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        expected = {name: tuple(tensor.shape) for name, tensor in projection.state_dict().items()}
        if found != expected:
            raise EncoderError(
                f"the projection in {checkpoint.name} has the tensors {found}, expected {expected}"
            )
        projection.load_state_dict(state)
        encoder = self.encoder._build_with(inner, meta_encoder, side, "grid")
        return _ProjectedEncoder(encoder, projection)


def _name_in_projection(name: str) -> str | None:
    prefix = f"{PROJECTION}."
    return name.removeprefix(prefix) if name.startswith(prefix) else None


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
