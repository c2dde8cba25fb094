"""How the features of a store were made: everything that determines the numbers, and their source.

A spec travels inside the HDF5 file as JSON. Two stores can be used together, and a checkpoint can
read a store, when their digests are equal.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from feature_extraction.choices import Layer, Precision, ResizeRule
from feature_extraction.errors import StoreError

__all__ = [
    "IMPORTED",
    "MOST_CROPS",
    "SCHEMA_VERSION",
    "FeatureSpec",
    "Layer",
    "Precision",
    "ResizeRule",
    "package_versions",
]

# Version 2 added `crops`. A spec without crops is written as version 1, as it always was: its text
# and digest stay the same, and programs that know no crops read it and refuse the others.
SCHEMA_VERSION = 2
VERSION_WITHOUT_CROPS = 1

# Eight tiles each way are 65 squares of one photograph.
MOST_CROPS = 8

# The weights of features that other programs made: nothing but their shape is known for certain.
IMPORTED = "imported"

# Names of things, not things: the hashes beside them say what the tower and its weights are, and
# a store stays usable when a package is upgraded.
NOT_IN_DIGEST = ("encoder", "weights", "packages")

PACKAGES = ("torch", "open_clip_torch", "pillow", "h5py")

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]
Crops = Annotated[int, Field(ge=1, le=MOST_CROPS)]
Byte = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """The settings behind one feature store.

    Args:
        encoder: Name of the tower, such as `RN101`.
        weights: Where its weights came from: a tag, `random`, `imported`, or the name of a file
            or folder.
        architecture_sha256: Hash of the tower's configuration, activation included.
        weights_sha256: Hash of the tower's weights, the same whatever file held them.
        quick_gelu: Whether the tower's transformer blocks use QuickGELU.
        image_size: Side of each square the tower sees, in pixels.
        resize: How a photograph becomes a square: `squash`, `letterbox` or `center-crop`.
        background: RGB colour in [0, 255] under transparent pixels and around a letterbox.
        exact_pixels: Photographs of more pixels than this are reduced before they are resized.
        layer: `grid` (cells of the last layer) or `pooled` (one vector per image).
        grid: Rows and columns of cells of one square, row-major in the store; `(1, 1)` when pooled.
        channels: Numbers per cell.
        mean: Subtracted from RGB in [0, 1].
        std: Divides what is left.
        precision: Arithmetic of the tower: `fp32` or `bf16`.
        dtype: Of the stored numbers.
        crops: 1 where the tower sees the photograph as one square; N where it sees that and then
            the photograph cut into N x N squares, row by row.
        packages: Versions of the packages that had a hand in it; not part of the digest.
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
    packages: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def squares(self) -> int:
        """Squares the tower sees of one photograph."""
        return 1 if self.crops == 1 else 1 + self.crops**2

    @property
    def tokens(self) -> int:
        """Feature vectors per image, those of one square after those of another."""
        return self.squares * self.grid[0] * self.grid[1]

    @property
    def decoded_side(self) -> int:
        """Side in pixels of the largest square a photograph becomes."""
        return self.crops * self.image_size

    @property
    def digest(self) -> str:
        """SHA-256 of what determines the numbers: all fields but names and package versions."""
        fields = {k: v for k, v in self._fields().items() if k not in NOT_IN_DIGEST}
        return hashlib.sha256(_canonical(fields).encode()).hexdigest()

    def differences(self, other: "FeatureSpec") -> list[str]:
        """Say in what the two differ, as `image_size: 224 here, 288 there`.

        Returns:
            One line per field that makes the digests differ, and the names of tower and weights
            if those differ as well; empty exactly when the digests are equal.
        """
        if self.digest == other.digest:
            return []
        here, there = dataclasses.asdict(self), dataclasses.asdict(other)
        return [
            f"{name}: {_short(here[name])} here, {_short(there[name])} there"
            for name in here
            if name != "packages" and here[name] != there[name]
        ]

    def to_json(self) -> str:
        """Return the canonical JSON: equal specs give equal text."""
        return _canonical(self._fields())

    @classmethod
    def from_json(cls, text: str) -> "FeatureSpec":
        """Read what `to_json` wrote.

        Raises:
            StoreError: The text is not a spec, or is of a later version than this program reads.
        """
        try:
            return _ADAPTER.validate_json(_without_version(text))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "spec"
            problem = f"{where}: {first['msg']}"
        except ValueError as error:
            problem = str(error)
        raise StoreError(
            f"the spec is not one this program reads (up to version {SCHEMA_VERSION}): {problem}. "
            "Extract the features again, or upgrade this program."
        )

    def _fields(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        if self.crops > 1:
            return {**fields, "version": SCHEMA_VERSION}
        del fields["crops"]
        return {**fields, "version": VERSION_WITHOUT_CROPS}


_ADAPTER = TypeAdapter(FeatureSpec)


def package_versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Return the installed version of each package that takes part in an extraction.

    Args:
        more: Packages that compute the tower, beside those that always take part.
    """
    return {name: importlib.metadata.version(name) for name in (*PACKAGES, *more)}


def _without_version(text: str) -> str:
    """Check which layout a record has; all that are read have one form here."""
    try:
        fields = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    version = fields.pop("version", None) if isinstance(fields, dict) else None
    if version not in (VERSION_WITHOUT_CROPS, SCHEMA_VERSION) or isinstance(version, bool):
        raise ValueError(f"its version is {version!r}")
    if (version == VERSION_WITHOUT_CROPS) == ("crops" in fields):
        raise ValueError(f"version {version} does not go with the fields {', '.join(fields)}")
    return json.dumps(fields)


def _canonical(value: Any) -> str:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return value[:12] + "…"
    return str(value)
