"""The settings of stored backbone states: everything that determines their values.

A spec is stored in the file as JSON. A run can read a file if the spec equals the one that its
recipe asks for, apart from additional layers.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from eval.run_files import first_problem
from feature_extraction.errors import StoreError
from feature_extraction.spec import package_versions
from vl_lst.choices import BackbonePrecision, StatePrecision, Vocabulary

__all__ = [
    "DTYPES",
    "STATE_DTYPES",
    "OutputSpec",
    "Sha256",
    "StackSpec",
    "StateDtype",
    "StateSpec",
    "state_packages",
]

StateDtype = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[StateDtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
STATE_DTYPES: Mapping[StatePrecision, StateDtype] = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
}

# One read fills all planes of a text, and the system accepts at most 1024 buffers per read.
MAX_LAYERS = 1000
MAX_WIDTH = 2**17
MAX_VOCABULARY = 2**24
# Names do not determine values, and a file must stay usable after a package upgrade.
NOT_IN_DIGEST = {"backbone", "weights_bf16_sha256", "packages"}

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Layer = Annotated[int, Field(ge=0, lt=MAX_LAYERS)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StackSpec(_Part):
    """Kept states of one stack of the backbone, the encoder or the decoder.

    Args:
        layers: Blocks whose outputs are kept, ascending and counted from 0.
        width: Width of the residual stream.
        has_final: Whether the output of the stack is kept as well.
    """

    layers: Annotated[tuple[Layer, ...], Field(max_length=MAX_LAYERS)]
    width: Width
    has_final: bool

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers are {list(self.layers)}, expected ascending ones")
        return self

    @property
    def planes(self) -> int:
        """Number of states per token: the embedding, each kept block, and perhaps the output."""
        return 1 + len(self.layers) + self.has_final


class OutputSpec(_Part):
    """The backbone's output layer, kept for heads that generate.

    Args:
        vocabulary_size: Number of rows of the weight.
        width: Width of the states that the layer reads.
        dtype: Type of the weight, and of the bias.
        has_bias: Whether the layer has a bias.
    """

    vocabulary_size: Annotated[int, Field(ge=1, le=MAX_VOCABULARY)]
    width: Width
    dtype: StateDtype
    has_bias: bool


class StateSpec(_Part):
    """The settings of the states in one file.

    Args:
        backbone: Name of the backbone, such as `t5-base`.
        weights_sha256: Its fingerprint, `vl_lst.backbones.loading.LoadedBackbone.fingerprint`.
        precision: Precision of its weights; see `vl_lst.choices.BackbonePrecision`.
        vocabulary: Whether its vocabulary is cut; see `vl_lst.backbones.loading.load_backbone`.
        tokenizer_sha256: Hash of the tokenizer that made the token ids.
        encoder: Kept states of the encoder.
        decoder: Kept states of the decoder; `None` for an encoder without decoder.
        dtype: Type of the stored states.
        output: The kept output layer; `None` if there is none.
        features_sha256: Digest of the spec of the image features that the encoder read; `None` if
            it read text alone.
        weights_bf16_sha256: `LoadedBackbone.fingerprint_bf16`, by which runs are found that may be
            compared; it follows from the weights, and is not part of the digest.
        packages: Versions of the packages involved; not part of the digest.
        version: Version of this schema.
    """

    backbone: str
    weights_sha256: Sha256
    precision: BackbonePrecision
    vocabulary: Vocabulary | None
    tokenizer_sha256: Sha256
    encoder: StackSpec
    decoder: StackSpec | None
    dtype: StateDtype
    output: OutputSpec | None = None
    features_sha256: Sha256 | None = None
    weights_bf16_sha256: Sha256 | None = None
    packages: Mapping[str, str] = Field(default_factory=dict)
    version: Literal[1] = 1

    @property
    def digest(self) -> str:
        """SHA-256 of what determines the states: all but names and package versions."""
        return hashlib.sha256(_canonical(self.model_dump(exclude=NOT_IN_DIGEST))).hexdigest()

    @property
    def itemsize(self) -> int:
        """Bytes per value of a state."""
        return DTYPES[self.dtype].itemsize

    def differences(self, expected: "StateSpec") -> list[str]:
        """Describe the differences from an expected spec.

        Args:
            expected: The spec to compare with.

        Returns:
            One line per field that differs, such as `dtype: found float16, expected bfloat16`.
            Package versions are ignored, and so is the backbone's name if nothing else differs.
        """
        found, wanted = self.model_dump(), expected.model_dump()
        names = [name for name in found if name != "packages" and found[name] != wanted[name]]
        if not set(names) - NOT_IN_DIGEST:
            return []
        return [line for name in names for line in _difference(name, found[name], wanted[name])]

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the output of `model_dump_json`.

        Raises:
            StoreError: The text is not a spec, or has a later version than this program reads.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise StoreError(
                f"the spec cannot be read as version 1: {first_problem(error)}. Extract the "
                "states again, or upgrade this program."
            ) from None


def state_packages() -> dict[str, str]:
    """Return the installed version by name of each package that determines states."""
    return {
        name: version
        for name, version in package_versions(["transformers"]).items()
        if name in ("torch", "transformers", "h5py")
    }


def _difference(name: str, found: Any, wanted: Any) -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for part in found
            if found[part] != wanted[part]
            for line in _difference(f"{name}.{part}", found[part], wanted[part])
        ]
    return [f"{name}: found {_short(found)}, expected {_short(wanted)}"]


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return value[:12] + "…"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return str(list(value))
    return "none" if value is None else str(value)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
