"""Settings of the parts of a model."""

from dataclasses import dataclass
from math import inf
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from feature_extraction.spec import grid_side
from vl_lst.checks import require_integer, require_number
from vl_lst.errors import ModelError

__all__ = [
    "HeadConfig",
    "LadderConfig",
    "LadderSettings",
    "Layers",
    "Recompute",
    "SideSettings",
    "VisualConfig",
]

Layers = tuple[Annotated[int, Field(ge=0)], ...] | None
"""Layers of a stack, counted from 0; `None` means all."""
Recompute = bool | Literal["auto"]
"""Whether blocks save only their inputs for the backward pass and run again in it. `auto` keeps
everything where a training step fits the memory of the device; models recompute until that is
known, see `vl_lst.training.recompute_policy`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualConfig:
    """Settings of the visual embedding.

    Args:
        channels: Width of a feature vector (2048 for the RN101 grid).
        tokens: Stored feature vectors per image (49 for a 7x7 grid).
        grids: Number of square grids among them, one after the other; more than 1 if features come
            from several crops per image.
        pooled_grid: Side of the square grid to which each stored grid is max-pooled; 6 turns
            7x7 = 49 into 36 tokens, as in the paper. `None` disables pooling.
        max_images: Maximum number of images per example (2 for NLVR2).
        image_order_std: Initial standard deviation of the image-order embedding, one vector per
            image that is added to all its tokens. At the reference's 1.0 it dominates the features.

    Raises:
        ModelError: A value is out of range, or the features cannot be pooled.
    """

    channels: int
    tokens: int
    grids: int = 1
    pooled_grid: int | None = 6
    max_images: int = 2
    image_order_std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("channels", "tokens", "grids", "max_images"):
            require_integer(f"{name} of a VisualConfig", getattr(self, name), minimum=1)
        if self.pooled_grid is not None:
            require_integer("pooled_grid of a VisualConfig", self.pooled_grid, minimum=1)
        require_number(
            "image_order_std of a VisualConfig", self.image_order_std, minimum=0, below=inf
        )
        if self.pooled_grid is not None and (self.grid is None or self.grid < self.pooled_grid):
            grids = f" of {self.grids} crops" if self.grids > 1 else ""
            raise ModelError(
                f"cannot pool {self.tokens} feature vectors per image{grids} to a grid of "
                f"{self.pooled_grid}x{self.pooled_grid}: expected a square grid of at least that "
                "size. Set visual.pooled_grid to null to use the features as they are."
            )

    @property
    def grid(self) -> int | None:
        """Side of each stored grid; `None` if the tokens do not form square grids."""
        return grid_side(self.tokens, self.grids)

    @property
    def pooled_tokens(self) -> int:
        """Number of tokens per image after pooling."""
        return self.tokens if self.pooled_grid is None else self.grids * self.pooled_grid**2


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """Settings of a head, which turns decoder states into answers.

    Args:
        kind: `classify` picks from a closed answer list; `generate` writes free text; `regress`
            answers with a number.
        answers: Length of the answer list; 0 for other kinds.
        value_range: Smallest and largest answer of `regress`; `None` for other kinds.

    Raises:
        ModelError: The kind does not exist, or the length or the range does not fit it.
    """

    kind: Literal["classify", "generate", "regress"]
    answers: int = 0
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("classify", "generate", "regress"):
            raise ModelError(
                f"the head is {self.kind!r:.60}: expected 'classify', 'generate' or 'regress'"
            )
        if not isinstance(self.answers, int):
            raise ModelError(
                f"answers of a head is {self.answers!r:.60}: expected the number of answers"
            )
        if (self.kind == "classify") != (self.answers > 0):
            raise ModelError(
                f"a head to {self.kind} was given {self.answers} answers: expected at least 1 "
                "for classify, 0 for generate and regress"
            )
        if (self.kind == "regress") != (self.value_range is not None):
            raise ModelError(
                f"a head to {self.kind} was given the range {self.value_range}: expected one, such "
                "as (0.0, 5.0), for regress alone"
            )
        low, high = self.value_range or (0, 1)
        if not -inf < low < high < inf:
            raise ModelError(
                f"the range of a head to regress is {self.value_range}: expected two finite "
                "numbers, the smaller one first"
            )


class SideSettings(BaseModel):
    """Settings of a side network, with or without rungs.

    Args:
        reduction: Ratio of the backbone's width to the side network's; must divide the width of the
            backbone's residual stream, of its attention heads and of its feed-forward layers.
        encoder_layers: Backbone encoder layers that get a side block, ascending and counted from 0;
            `None` means all.
        decoder_layers: Backbone decoder layers that get a side block, likewise.
        dropout: Dropout probability within the side network, for embeddings, attention weights,
            inner activations and the output of each sublayer.
        recompute: Save only the input of each side block for the backward pass and recompute the
            rest; trades about a fifth of the side network's time for most of its memory. `auto`
            does so where a step that keeps everything does not fit the memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reduction: int = Field(4, ge=1, le=10_000)
    encoder_layers: Layers = None
    decoder_layers: Layers = None
    dropout: float = Field(0.1, ge=0, lt=1)
    recompute: Recompute = "auto"


class LadderSettings(SideSettings):
    """Settings of a ladder side network (arXiv 2206.06522, section 3).

    Args:
        rungs: `linear` projects each layer's states with its own weights, as in the paper.
            `normalised` first scales the states and the embeddings to a root mean square of 1, as a
            pre-norm block does with its input. `pool` averages adjacent channels, which trains
            nothing and saves no backbone state for the backward pass.
        rung_place: Whether a layer's rung joins the residual stream before that layer's side block,
            as in the paper, or after it. Before it, the rung holds what the block is about to
            compute; after it, a larger version of what the block has just computed.
        image_rungs: What image tokens are mixed with, since the backbone has no state for them.
            `attenuate` multiplies them by the gate, as in the paper's code, so they fade from layer
            to layer. `pass` leaves them unchanged. `projection` mixes them with their own
            embedding, projected by that layer's rung. Must be `pass` if the backbone reads images.
        gates: `scalar`, one number per layer as in the paper, or `channel`, one per channel.
        gate_temperature: T in a gate's `g = sigmoid(alpha / T)`; 0.1 as in the paper's code.
        gate_start: Initial share of its own state that the side network keeps at each layer; 0.5 in
            the paper's code. With a visual embedding, each layer then halves what text tokens learn
            from the image. `None` means 0.9 with a visual embedding and 0.5 without one.
        merge_last: Whether another gate mixes the final states of the side network, projected to
            the backbone's width, with those of the backbone. Heads then read states of the
            backbone's width.
    """

    rungs: Literal["linear", "normalised", "pool"] = "normalised"
    rung_place: Literal["before_block", "after_block"] = "before_block"
    image_rungs: Literal["attenuate", "pass", "projection"] = "pass"
    gates: Literal["scalar", "channel"] = "scalar"
    gate_temperature: float = Field(0.1, gt=0, le=1e6)
    gate_start: float | None = Field(None, gt=0, lt=1)
    merge_last: bool = False

    def for_visual(self, visual: VisualConfig | None) -> Self:
        """Return the settings with the start of the gates that fits the visual embedding.

        Args:
            visual: Settings of the visual embedding; `None` if there is none.
        """
        if self.gate_start is not None:
            return self
        return self.model_copy(update={"gate_start": 0.5 if visual is None else 0.9})


class LadderConfig(LadderSettings):
    """Ladder settings for use from Python: types are strict, and errors are `ModelError`s.

    Args:
        free_encoder_blocks: Number of side blocks without a rung that follow those of
            `encoder_layers`. The other arguments are those of `SideSettings` and `LadderSettings`.
        free_decoder_blocks: Likewise, for the decoder.

    Raises:
        ModelError: A field does not exist or has an invalid value.
    """

    model_config = ConfigDict(strict=True)

    free_encoder_blocks: Annotated[int, Field(ge=0)] = 0
    free_decoder_blocks: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="wrap")
    @classmethod
    def _raise_model_error(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler({name: _plain(value) for name, value in values.items()})
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            name = detail["loc"][0]
            if detail["type"] == "extra_forbidden":
                fields = ", ".join(cls.model_fields)
                raise ModelError(
                    f"a LadderConfig has no field {name!r}: expected one of {fields}"
                ) from None
            expected = detail["msg"].replace("Input should be", "expected", 1)
            raise ModelError(
                f"{name} of a LadderConfig is {values[name]!r:.60}: {expected}"
            ) from None


def _plain(value: Any) -> Any:
    """Return a number of NumPy as one of Python, and a list as a tuple."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value
