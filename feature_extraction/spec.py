"""How the features of a store were made: everything that determines the numbers, and their source.

A spec travels inside the HDF5 file as JSON. Two stores can be used together, and a checkpoint can
read a store, when their digests are equal.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from feature_extraction.errors import StoreError

__all__ = [
    "IMPORTED",
    "SCHEMA_VERSION",
    "FeatureSpec",
    "Layer",
    "Precision",
    "ResizeRule",
    "package_versions",
]

SCHEMA_VERSION: Literal[1] = 1

# The weights of features that other programs made: nothing but their shape is known for certain.
IMPORTED = "imported"

# Names of things, not things: the hashes beside them say what the tower and its weights are, and
# a store stays usable when a package is upgraded.
NOT_IN_DIGEST = ("encoder", "weights", "packages")

PACKAGES = ("torch", "open_clip_torch", "pillow", "h5py")

Layer = Literal["grid", "pooled"]
ResizeRule = Literal["squash", "letterbox", "center-crop"]
Precision = Literal["fp32", "bf16"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]
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
        image_size: Side of the square the tower sees, in pixels.
        resize: How a photograph becomes that square: `squash`, `letterbox` or `center-crop`.
        background: RGB colour in [0, 255] under transparent pixels and around a letterbox.
        exact_pixels: Photographs of more pixels than this are reduced before they are resized.
        layer: `grid` (cells of the last layer) or `pooled` (one vector per image).
        grid: Rows and columns of cells, row-major in the store; `(1, 1)` when pooled.
        channels: Numbers per cell.
        mean: Subtracted from RGB in [0, 1].
        std: Divides what is left.
        precision: Arithmetic of the tower: `fp32` or `bf16`.
        dtype: Of the stored numbers.
        packages: Versions of the packages that had a hand in it; not part of the digest.
        version: Of this record's layout.
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
    packages: Mapping[str, str] = field(default_factory=dict, compare=False)
    version: Literal[1] = SCHEMA_VERSION

    @property
    def tokens(self) -> int:
        """Feature vectors per image."""
        return self.grid[0] * self.grid[1]

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
        here, there = self._fields(), other._fields()
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
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "spec"
            raise StoreError(
                f"the spec is not one this program reads (version {SCHEMA_VERSION}): {where}: "
                f"{first['msg']}. Extract the features again, or upgrade this program."
            ) from None

    def _fields(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_ADAPTER = TypeAdapter(FeatureSpec)


def package_versions() -> dict[str, str]:
    """Return the installed version of each package that takes part in an extraction."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _canonical(value: Any) -> str:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return value[:12] + "…"
    return str(value)
