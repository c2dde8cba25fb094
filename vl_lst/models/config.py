"""Settings of the parts of a model; a recipe fills them, a checkpoint's recipe rebuilds them."""

from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

from feature_extraction.spec import grid_side
from vl_lst.checks import require_choice, require_number, require_whole
from vl_lst.errors import ModelError

__all__ = ["HeadConfig", "LadderConfig", "VisualConfig"]


Rungs = Literal["linear", "normalised", "pool"]
RungPlace = Literal["before_block", "after_block"]
ImageRungs = Literal["attenuate", "pass", "projection"]
Gates = Literal["scalar", "channel"]
CHOICES: dict[str, tuple[str, ...]] = {
    "rungs": get_args(Rungs),
    "rung_place": get_args(RungPlace),
    "image_rungs": get_args(ImageRungs),
    "gates": get_args(Gates),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualConfig:
    """How image features become tokens.

    Args:
        channels: Width of one feature vector (2048 for the RN101 grid).
        tokens: Feature vectors per image as stored (49).
        grids: Grids they are of, one after the other: more than one where features were made of
            several crops of each image.
        pooled_grid: Side of the square grid that each stored grid is max-pooled to; 6 turns
            7x7 = 49 into 36 tokens as in the paper. `None` keeps the tokens as they are.
        max_images: Images one example may hold (2 for NLVR2).
        image_order_std: Initial scale of the embedding that tells images apart. It is the same
            vector on all tokens of an image: at the reference's 1.0 it drowns their features.
    """

    channels: int
    tokens: int
    grids: int = 1
    pooled_grid: int | None = 6
    max_images: int = 2
    image_order_std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("channels", "tokens", "grids", "max_images"):
            require_whole(f"{name} of a VisualConfig", getattr(self, name), minimum=1)
        if self.pooled_grid is not None:
            require_whole("pooled_grid of a VisualConfig", self.pooled_grid, minimum=1)
        require_number("image_order_std of a VisualConfig", self.image_order_std, below=inf)
        side = grid_side(self.tokens, self.grids)
        if self.pooled_grid is not None and (side is None or side < self.pooled_grid):
            grids = f" of {self.grids} crops" if self.grids > 1 else ""
            raise ModelError(
                f"cannot pool {self.tokens} feature vectors per image{grids} to a grid of "
                f"{self.pooled_grid}x{self.pooled_grid}: expected a square grid of at least that "
                "size. Set visual.pooled_grid to null to use the features as they are."
            )

    @property
    def pooled_tokens(self) -> int:
        """Tokens per image after pooling."""
        return self.tokens if self.pooled_grid is None else self.grids * self.pooled_grid**2


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """What turns a decoder's states into answers.

    Args:
        kind: "classify" over a closed list of answers, or "generate" with the vocabulary.
        answers: Length of the answer list; 0 when generating.
    """

    kind: Literal["classify", "generate"]
    answers: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("classify", "generate"):
            raise ModelError(f"the head is {self.kind!r:.60}: expected 'classify' or 'generate'")
        if not isinstance(self.answers, int):
            raise ModelError(
                f"answers of a head is {self.answers!r:.60}: expected how many there are"
            )
        if (self.kind == "classify") != (self.answers > 0):
            raise ModelError(
                f"a head that is to {self.kind} got {self.answers} answers: classifying needs "
                "at least one, generating none"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderConfig:
    """A ladder side network (arXiv 2206.06522, section 3).

    Args:
        reduction: The side network is this many times narrower than the backbone; must divide
            its d_model, d_kv and d_ff.
        encoder_layers: Backbone encoder layers that get a side block and a rung, counted from 0
            and ascending; `None` means all.
        decoder_layers: The same for the decoder.
        rungs: `linear` projects each layer's states with weights of its own, as in the paper.
            `normalised` brings them, and the embeddings, to a root mean square of 1 first, as a T5
            block does with what it reads. `pool` takes the mean of adjacent channels, which trains
            nothing and keeps no backbone state for backward.
        rung_place: Whether a layer's rung joins the residual stream before that layer's side block,
            as in the paper, or after it. The backbone's state there is what the block has still to
            compute, or what it has just computed a smaller version of.
        image_rungs: What image tokens meet where text tokens meet a rung; the backbone has no
            state of them. `attenuate` multiplies them by the gate, as in the paper's code, so that
            they fade from layer to layer. With `pass` they go by untouched. With `projection` they
            meet their own embedding, projected by that layer's rung.
        gates: `scalar`, one number a layer as in the paper, or `channel`, one for each channel.
        gate_temperature: T in a gate's `g = sigmoid(alpha / T)`; 0.1 as in the paper's code.
        gate_start: Share of its own state that the side network keeps at each layer at first. At
            0.5, as in the paper's code, what text tokens learn from the image is halved at every
            layer.
        dropout: Probability, in the places where T5 has it, within the side network only.
        recompute: Keep only each side block's input for the backward pass and compute the rest
            again; trades about a fifth of the side network's time for most of its memory.
    """

    reduction: int = 4
    encoder_layers: tuple[int, ...] | None = None
    decoder_layers: tuple[int, ...] | None = None
    rungs: Rungs = "normalised"
    rung_place: RungPlace = "before_block"
    image_rungs: ImageRungs = "pass"
    gates: Gates = "scalar"
    gate_temperature: float = 0.1
    gate_start: float = 0.9
    dropout: float = 0.1
    recompute: bool = True

    def __post_init__(self) -> None:
        require_whole("reduction of a LadderConfig", self.reduction, minimum=1)
        for name in ("encoder_layers", "decoder_layers"):
            layers = getattr(self, name)
            if layers is None:
                continue
            if not isinstance(layers, tuple | list):
                raise ModelError(
                    f"{name} of a LadderConfig is {layers!r:.60}: expected numbers of layers such "
                    "as (0, 2), or None for all"
                )
            for layer in layers:
                require_whole(f"a layer in {name} of a LadderConfig", layer, minimum=0)
        for name, choices in CHOICES.items():
            require_choice(f"{name} of a LadderConfig", getattr(self, name), choices)
        require_number(
            "gate_temperature of a LadderConfig", self.gate_temperature, above=0, below=inf
        )
        require_number("gate_start of a LadderConfig", self.gate_start, above=0, below=1)
        require_number("dropout of a LadderConfig", self.dropout, below=1)
