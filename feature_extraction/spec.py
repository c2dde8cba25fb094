"""The settings of a store's features: everything that determines their values.

A spec is stored in the HDF5 file as JSON. Two stores can be used together, and a checkpoint can
read a store, if their digests are equal.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from eval.run_files import first_problem
from feature_extraction.choices import Layer, Precision, ResizeRule
from feature_extraction.errors import StoreError

__all__ = [
    "IMPORTED",
    "MAX_CROPS",
    "SCHEMA_VERSION",
    "FeatureSpec",
    "Layer",
    "Precision",
    "ResizeRule",
    "grid_side",
    "package_versions",
]

# Version 2 added `crops`, version 3 `projection_sha256`. A spec without a field is still written as
# the version before it, so that its text and digest stay the same; older programs read it, and
# refuse later versions.
SCHEMA_VERSION = 3
VERSION_WITH_CROPS = 2
FIRST_VERSION = 1

# 8 x 8 tiles and the whole photograph are 65 squares.
MAX_CROPS = 8

# Weights tag of features made by other programs, for which only the shape is certain.
IMPORTED = "imported"

# The hashes identify the encoder and its weights, so names do not matter; and a store must stay
# usable after a package upgrade.
NOT_IN_DIGEST = ("encoder", "weights", "packages")

PACKAGES = ("torch", "open_clip_torch", "pillow", "h5py")

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]
Crops = Annotated[int, Field(ge=1, le=MAX_CROPS)]
Byte = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """The settings of the features in one store.

    Args:
        encoder: Name of the image encoder, such as `RN101`.
        weights: Source of its weights: a tag, `random`, `imported`, or the name of a file or
            folder.
        architecture_sha256: Hash of the encoder's configuration, including the activation.
        weights_sha256: Hash of the encoder's weights, independent of the file format.
        quick_gelu: Whether the encoder's transformer blocks use QuickGELU.
        image_size: Side of the encoder's square input in pixels.
        resize: How a photograph becomes a square: `squash`, `letterbox` or `center-crop`.
        background: RGB colour in [0, 255] under transparent pixels and around a letterbox.
        exact_pixels: Photographs with more pixels than this are reduced before they are resized.
        layer: `grid` (cells of the last layer), `pooled` (one vector per image), or `language`
            (the tokens that the language model of a vision-language model reads).
        grid: Rows and columns of cells per square, stored row-major; `(1, 1)` if pooled, and
            `(1, tokens)` for tokens without a place in the image.
        channels: Values per cell.
        mean: Mean subtracted from RGB in [0, 1].
        std: Standard deviation that the result is divided by.
        precision: Precision of the encoder: `fp32` or `bf16`.
        dtype: Type of the stored values.
        crops: 1 if the encoder sees only the whole photograph as one square; N if it also sees
            N x N tiles of the photograph, row by row.
        projection_sha256: Hash of the projection into the language model
            (`feature_extraction.encoders.weights.projection_sha256`), which tells whether a
            language model belongs to these features; `None` for other layers.
        packages: Versions of the packages involved; not part of the digest.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    encoder: str
    weights: str
    architecture_sha256: Sha256
    weights_sha256: Sha256
    quick_gelu: bool
    image_size: Count
    resize: ResizeRule
    background: tuple[Byte, Byte, Byte]
    exact_pixels: Count
    layer: Layer
    grid: tuple[Count, Count]
    channels: Count
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: Precision
    dtype: Literal["float16"] = "float16"
    crops: Crops = 1
    projection_sha256: Sha256 | None = None
    packages: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def squares(self) -> int:
        """Number of squares per photograph."""
        return 1 if self.crops == 1 else 1 + self.crops**2

    @property
    def tokens(self) -> int:
        """Feature vectors per image, square by square."""
        return self.squares * self.grid[0] * self.grid[1]

    @property
    def decoded_side(self) -> int:
        """Side in pixels of the largest square that a photograph is resized to."""
        return self.crops * self.image_size

    @property
    def digest(self) -> str:
        """SHA-256 of what determines the features: all fields except names and package versions."""
        fields = {k: v for k, v in self._fields().items() if k not in NOT_IN_DIGEST}
        return hashlib.sha256(_canonical(fields).encode()).hexdigest()

    def differences(self, expected: "FeatureSpec") -> list[str]:
        """Describe the differences from an expected spec.

        Args:
            expected: The spec to compare with.

        Returns:
            One line per field that differs, such as `image_size: found 224, expected 288`. Package
            versions are ignored; without a difference in the digest the list is empty.
        """
        if self.digest == expected.digest:
            return []
        found, wanted = dataclasses.asdict(self), dataclasses.asdict(expected)
        return [
            f"{name}: found {_short(found[name])}, expected {_short(wanted[name])}"
            for name in found
            if name != "packages" and found[name] != wanted[name]
        ]

    def to_json(self) -> str:
        """Return canonical JSON: equal specs have equal text."""
        return _canonical(self._fields())

    @classmethod
    def from_json(cls, text: str) -> "FeatureSpec":
        """Parse the output of `to_json`.

        Raises:
            StoreError: The text is not a spec, or has a later version than this program reads.
        """
        try:
            return _ADAPTER.validate_json(_without_version(text))
        except ValidationError as error:
            problem = first_problem(error)
        except ValueError as error:
            problem = str(error)
        raise StoreError(
            f"the spec cannot be read as version {SCHEMA_VERSION} or earlier: {problem}. "
            "Extract the features again, or upgrade this program."
        )

    def _fields(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        if self.crops == 1:
            del fields["crops"]
        if self.projection_sha256 is None:
            del fields["projection_sha256"]
        return {**fields, "version": _version_of(fields)}


_ADAPTER = TypeAdapter(FeatureSpec)


def grid_side(tokens: int, grids: int = 1) -> int | None:
    """Return the side, in cells, of equal square grids.

    Args:
        tokens: Total number of cells.
        grids: Number of grids.

    Returns:
        The side; `None` if the cells do not form that many square grids.
    """
    side = math.isqrt(tokens // grids)
    return side if grids * side * side == tokens else None


def package_versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Return the installed version by name of each package that an extraction uses.

    Args:
        more: Packages of the encoder, in addition to those that every extraction uses.
    """
    return {name: importlib.metadata.version(name) for name in (*PACKAGES, *more)}


def _without_version(text: str) -> str:
    """Return the JSON of a spec without its version, after checking the version."""
    try:
        fields = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    version = fields.pop("version", None) if isinstance(fields, dict) else None
    if version not in range(FIRST_VERSION, SCHEMA_VERSION + 1) or isinstance(version, bool):
        raise ValueError(f"its version is {version!r}")
    if version != _version_of(fields):
        raise ValueError(f"version {version} does not match the fields {', '.join(fields)}")
    return json.dumps(fields)


def _version_of(fields: Mapping[str, Any]) -> int:
    """Return the first version of the schema that has all of these fields."""
    if "projection_sha256" in fields:
        return SCHEMA_VERSION
    return VERSION_WITH_CROPS if "crops" in fields else FIRST_VERSION


def _canonical(value: Any) -> str:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return value[:12] + "…"
    return str(value)
