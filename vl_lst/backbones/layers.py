"""Sizes and names of the layers of a backbone, as its family describes them.

V vocabulary, W width of the decoder.
"""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["AttentionLayers", "BlockSizes", "FeedForwardLayers", "OutputLayer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSizes:
    """Sizes of one stack of blocks, an encoder or a decoder.

    Args:
        depth: Number of blocks.
        width: Width of the residual stream.
        heads: Number of attention heads that queries are split into.
        head_width: Width of a head.
        inner_width: Hidden width of the feed-forward layer.
        is_gated: Whether that layer multiplies two projections of its input, one activated.
        epsilon: Epsilon of the norms.
    """

    depth: int
    width: int
    heads: int
    head_width: int
    inner_width: int
    is_gated: bool
    epsilon: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayers:
    """Names of the modules of one attention, self-attention or cross-attention.

    Args:
        sublayer: Module whose output, or the first of its outputs, the block adds to its residual
            stream.
        query: Linear layer of the queries.
        key: Linear layer of the keys.
        value: Linear layer of the values.
        output: Linear layer after the heads.
        norm: Norm through which the queries read the residual stream; `None` if they read it as it
            is, as in blocks with norms after each sublayer.
        is_cross: Whether keys and values are of the encoder's states alone.
    """

    sublayer: str
    query: str
    key: str
    value: str
    output: str
    norm: str | None = None
    is_cross: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForwardLayers:
    """Names of the modules of one feed-forward layer.

    Args:
        sublayer: See `AttentionLayers`.
        inner: Linear layers that read the residual stream: one, or two if the layer is gated.
        output: Linear layer after the activation.
        norm: Norm through which they read it; see `AttentionLayers`.
    """

    sublayer: str
    inner: tuple[str, ...]
    output: str
    norm: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLayer:
    """Output layer: `logits = softcap * tanh((scale * states @ weight.T + bias) / softcap)`.

    Args:
        weight_VW: Weight.
        bias_V: Bias, or `None`.
        scale: Factor for the decoder's states.
        softcap: Bound of the logits; `None` leaves them as they are.
    """

    weight_VW: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
