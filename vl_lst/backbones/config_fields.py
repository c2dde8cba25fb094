"""Fields of a checkpoint's `config.json`, validated before transformers sees them.

A configuration is untrusted: only the fields that a family declares are used, and their ranges
bound the memory that a model can ask for.
"""

from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from transformers.activations import ACT2FN

__all__ = [
    "ConfigFields",
    "Depth",
    "Heads",
    "InnerWidth",
    "NestedFields",
    "Probability",
    "TokenId",
    "TokenIds",
    "VocabularySize",
    "Width",
    "describe_problem",
]

Width = Annotated[int, Field(ge=1, le=2**17)]
InnerWidth = Annotated[int, Field(ge=1, le=2**20)]
Heads = Annotated[int, Field(ge=1, le=2**10)]
Depth = Annotated[int, Field(ge=1, le=512)]
VocabularySize = Annotated[int, Field(ge=3, le=2**22)]
TokenId = Annotated[int, Field(ge=0)]
TokenIds = TokenId | Annotated[list[TokenId], Field(min_length=1, max_length=64)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class NestedFields(BaseModel):
    """Fields of a configuration inside another one, such as that of a decoder.

    Other fields are ignored. Types are strict.
    """

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    TOKEN_IDS: ClassVar[tuple[str, ...]] = (
        "pad_token_id",
        "eos_token_id",
        "decoder_start_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
    )
    """Fields that must be below `vocab_size`."""

    ACTIVATION: ClassVar[str | None] = None
    """Field with the name of an activation."""

    HEADS: ClassVar[tuple[str, ...]] = ()
    """Fields with numbers of attention heads, which must divide the width."""

    WIDTH: ClassVar[str] = "hidden_size"
    """Field with that width."""

    @model_validator(mode="after")
    def _require_known_tokens(self) -> Self:
        size = getattr(self, "vocab_size", None)
        for name in self.TOKEN_IDS:
            chosen = getattr(self, name, None)
            for token_id in chosen if isinstance(chosen, list) else [chosen]:
                if token_id is not None and size is not None and token_id >= size:
                    raise ValueError(f"{name} is {token_id}, beyond the vocab_size {size}")
        return self

    @model_validator(mode="after")
    def _require_known_activation(self) -> Self:
        if self.ACTIVATION is None:
            return self
        value = str(getattr(self, self.ACTIVATION))
        if value.removeprefix("gated-") not in ACT2FN:
            raise ValueError(
                f"{self.ACTIVATION} is {value!r:.80}, which is not an activation of transformers, "
                "such as relu or gelu"
            )
        return self

    @model_validator(mode="after")
    def _require_whole_heads(self) -> Self:
        for name in self.HEADS:
            heads, width = getattr(self, name), getattr(self, self.WIDTH)
            if width % heads:
                raise ValueError(
                    f"{name} is {heads}, expected a divisor of {self.WIDTH}, which is {width}"
                )
        return self


class ConfigFields(NestedFields):
    """Fields that a family reads, with the names and defaults of its configuration class."""

    model_type: str

    def values(self) -> dict[str, Any]:
        """Return the fields by name, without those that are `None`."""
        return self.model_dump(exclude_none=True)


def describe_problem(error: ValidationError, model_type: str) -> str:
    """Return the first problem of a configuration as part of a sentence.

    Args:
        error: Error of a `ConfigFields`.
        model_type: Type of the model, for missing fields.
    """
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    # Names of the types in a union are no identifiers.
    parts = [str(part) for part in first["loc"]]
    field = ".".join(part for part in parts if part.isidentifier() or part.isdecimal())
    if first["type"] == "missing":
        return f"{field} is missing: expected the configuration of a model of type {model_type}"
    if not field:
        return message
    if first["type"] == "value_error":
        return f"{field}: {message}"
    expected = message.replace("Input should be", "expected", 1)
    return f"{field}: found {first['input']!r:.60}, {expected}"
