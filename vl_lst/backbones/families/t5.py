"""T5 (arXiv 1910.10683) and its relatives: v1.1, Flan-T5, ByT5, mT5, UMT5.

Blocks with a norm first, without biases; relative positions in the first block of each stack, in
UMT5 in every block.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, UMT5Config
from transformers.models.umt5.modeling_umt5 import UMT5LayerSelfAttention

from vl_lst.backbones.config_fields import (
    ConfigFields,
    Depth,
    Heads,
    InnerWidth,
    Probability,
    TokenId,
    TokenIds,
    VocabularySize,
    Width,
)
from vl_lst.backbones.family import Family
from vl_lst.backbones.layers import AttentionLayers, BlockSizes, FeedForwardLayers, OutputLayer
from vl_lst.backbones.pretraining import SpanCorruption
from vl_lst.errors import ModelError

__all__ = ["FAMILY", "T5", "T5Fields"]

# Activation and tied embeddings by default, which differ between the configuration classes.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "t5": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "mt5": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "umt5": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": True},
}


def _has_causal_umt5() -> bool:
    """Return whether the decoder of UMT5 is causal without a cache.

    In releases of transformers up to 5.17 at least, it is not.
    """
    with torch.device("meta"):
        layer = UMT5LayerSelfAttention(UMT5Config(is_decoder=True), layer_idx=0)
    return bool(getattr(layer.SelfAttention, "is_causal", False))


HAS_CAUSAL_UMT5 = _has_causal_umt5()


class T5Fields(ConfigFields):
    """Fields of `T5Config`, `MT5Config` and `UMT5Config`."""

    ACTIVATION = "feed_forward_proj"

    vocab_size: VocabularySize
    d_model: Width
    d_kv: Width
    d_ff: InnerWidth
    num_layers: Depth
    num_decoder_layers: Depth | None = None
    num_heads: Heads
    relative_attention_num_buckets: int = Field(32, ge=4, le=2**14)
    relative_attention_max_distance: int = Field(128, ge=4, le=2**20)
    dropout_rate: Probability = 0.1
    layer_norm_epsilon: float = Field(1e-6, gt=0)
    initializer_factor: float = Field(1.0, ge=0, le=2**10)
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None
    pad_token_id: TokenId = 0
    eos_token_id: TokenIds = 1
    decoder_start_token_id: TokenId | None = None

    @model_validator(mode="before")
    @classmethod
    def _add_defaults(cls, values: Any) -> Any:
        return {**DEFAULTS.get(values.get("model_type"), {}), **values}

    @model_validator(mode="after")
    def _require_consistent_buckets(self) -> Self:
        if self.relative_attention_num_buckets >= 2 * self.relative_attention_max_distance:
            raise ValueError(
                f"relative_attention_max_distance is {self.relative_attention_max_distance}, "
                "expected more than half of relative_attention_num_buckets, which is "
                f"{self.relative_attention_num_buckets}"
            )
        return self


class T5(Family):
    """T5, v1.0 and later, in one or many languages, on pieces or bytes."""

    model_types: ClassVar[tuple[str, ...]] = ("t5", "mt5", "umt5")
    fields: ClassVar[type[ConfigFields]] = T5Fields
    pretraining = SpanCorruption()
    leaves_out_positions = True
    matches_side_blocks = True

    def build_config(self, values: Mapping[str, Any]) -> PretrainedConfig:
        """Return the configuration, and keep whether the output layer is scaled and tied."""
        if values["model_type"] == "umt5" and not HAS_CAUSAL_UMT5:
            raise ModelError(
                "the UMT5 of the installed transformers lets tokens of an answer read later ones: "
                "upgrade transformers, for example to 5.23"
            )
        config = super().build_config(values)
        if config.model_type != "t5":
            # Published checkpoints are not tied, which these classes of transformers 5 ignore.
            config.scale_decoder_outputs = values["tie_word_embeddings"]
        return config

    def build_random(self, config: Any, dtype: torch.dtype) -> PreTrainedModel:
        """Return a model with random weights, and an output layer of its own since v1.1."""
        model = super().build_random(config, dtype)
        if not getattr(config, "scale_decoder_outputs", config.tie_word_embeddings):
            # transformers ties it to the embedding until it loads weights that differ, as in all
            # published checkpoints.
            layer: Any = model.get_output_embeddings()
            layer.weight = nn.Parameter(layer.weight.detach().clone())
        return model

    def encoder_sizes(self, config: Any) -> BlockSizes:
        """Return the sizes of the encoder."""
        return self._sizes(config, config.num_layers)

    def decoder_sizes(self, config: Any) -> BlockSizes:
        """Return the sizes of the decoder, which differ in depth only."""
        return self._sizes(config, config.num_decoder_layers)

    def relative_positions(self, config: Any) -> tuple[int, int]:
        """Return the model's own buckets and maximum distance."""
        return (
            int(config.relative_attention_num_buckets),
            int(config.relative_attention_max_distance),
        )

    def has_shared_positions(self, config: Any) -> bool:
        """Return whether the first block alone has a table, unlike in UMT5."""
        return bool(config.model_type != "umt5")

    def encoder_blocks(self, model: Any) -> Sequence[nn.Module]:
        """Return the blocks of the encoder."""
        blocks: Sequence[nn.Module] = model.get_encoder().block
        return blocks

    def decoder_blocks(self, model: Any) -> Sequence[nn.Module]:
        """Return the blocks of the decoder."""
        blocks: Sequence[nn.Module] = model.get_decoder().block
        return blocks

    @contextmanager
    def limit_positions(self, model: Any, text: int) -> Iterator[None]:
        """Limit the relative position bias to pairs among the first `text` tokens.

        The bias of all pairs is looked up in a table. A hook on that table sets pairs with an image
        token to zero, as VL-T5 does.
        """

        def zero_others(_table: nn.Module, _inputs: Any, bias_SSH: Tensor) -> Tensor:
            others = bias_SSH.shape[0] - text
            return nn.functional.pad(bias_SSH[:text, :text], (0, 0, 0, others, 0, others))

        with ExitStack() as stack:
            for table in _tables(self.encoder_blocks(model)):
                stack.callback(table.register_forward_hook(zero_others).remove)
            yield

    def replace_memory(
        self, arguments: MutableMapping[str, Any], states_BSD: Tensor, mask_BS: Tensor
    ) -> None:
        """Leave out the bias of cross-attention, zeros and the mask of the encoder's states."""
        super().replace_memory(arguments, states_BSD, mask_BS)
        arguments.pop("encoder_decoder_position_bias", None)

    def output_layer(self, model: Any) -> OutputLayer:
        """Return the output layer, which v1.0 scales by d_model**-0.5, later versions do not."""
        config, layer = model.config, model.get_output_embeddings()
        is_scaled = config.model_type != "mt5" and getattr(
            config, "scale_decoder_outputs", config.tie_word_embeddings
        )
        return OutputLayer(
            weight_VW=layer.weight,
            bias_V=layer.bias,
            scale=float(config.d_model**-0.5) if is_scaled else 1.0,
        )

    def attentions(self, model: Any) -> Iterator[AttentionLayers]:
        """Yield self-attention, and cross-attention in the decoder."""
        for block, attentions, _ in _sublayers(model):
            for name in attentions:
                yield AttentionLayers(
                    sublayer=f"{block}.{name}",
                    query=f"{block}.{name}.q",
                    key=f"{block}.{name}.k",
                    value=f"{block}.{name}.v",
                    output=f"{block}.{name}.o",
                    norm=_norm_before(f"{block}.{name}"),
                    is_cross=name == "1.EncDecAttention",
                )

    def feed_forwards(self, model: Any) -> Iterator[FeedForwardLayers]:
        """Yield the feed-forward layers, with two inner projections if they are gated."""
        parts = ("wi_0", "wi_1") if model.config.is_gated_act else ("wi",)
        for block, _, dense in _sublayers(model):
            yield FeedForwardLayers(
                sublayer=f"{block}.{dense}",
                inner=tuple(f"{block}.{dense}.{part}" for part in parts),
                output=f"{block}.{dense}.wo",
                norm=_norm_before(f"{block}.{dense}"),
            )

    def final_norms(self, model: Any) -> Iterator[nn.Module]:
        """Yield the norm after the last block of each stack."""
        yield model.get_encoder().final_layer_norm
        yield model.get_decoder().final_layer_norm

    def position_tables(self, model: Any) -> Iterator[nn.Module]:
        """Yield the tables of both stacks."""
        yield from _tables(self.encoder_blocks(model))
        yield from _tables(self.decoder_blocks(model))

    def _sizes(self, config: Any, depth: int) -> BlockSizes:
        return BlockSizes(
            depth=int(depth),
            width=int(config.d_model),
            heads=int(config.num_heads),
            head_width=int(config.d_kv),
            inner_width=int(config.d_ff),
            is_gated=bool(config.is_gated_act),
            epsilon=float(config.layer_norm_epsilon),
        )


def _sublayers(model: Any) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Yield each block's prefix, its attentions and its feed-forward layer, relative to it."""
    config = model.config
    for layer in range(config.num_layers):
        yield f"encoder.block.{layer}.layer", ("0.SelfAttention",), "1.DenseReluDense"
    for layer in range(config.num_decoder_layers):
        yield (
            f"decoder.block.{layer}.layer",
            ("0.SelfAttention", "1.EncDecAttention"),
            "2.DenseReluDense",
        )


def _norm_before(sublayer: str) -> str:
    return f"{sublayer.rpartition('.')[0]}.layer_norm"


def _tables(blocks: Sequence[Any]) -> Iterator[nn.Module]:
    for block in blocks:
        attention = block.layer[0].SelfAttention
        if attention.has_relative_attention_bias:
            yield attention.relative_attention_bias


FAMILY = T5()
