"""BART (arXiv 1910.13461) and mBART (arXiv 2001.08210).

BART has the norms after each attention and feed-forward layer, mBART before, and a norm at the end
of each stack. Learned positions, which are added to the token embeddings; biases everywhere.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import Field
from torch import Tensor, nn

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
from vl_lst.backbones.pretraining import TextInfilling

__all__ = ["FAMILY", "Bart", "BartFields"]

# Prefixes of tensors in a checkpoint of the model with an output layer. The base model's have none.
WITH_OUTPUT_LAYER = ("model.", "lm_head.", "final_logits_bias")
# Of `nn.LayerNorm`; the configuration has none.
EPSILON = 1e-5


class BartFields(ConfigFields):
    """Fields of `BartConfig` and `MBartConfig`."""

    ACTIVATION = "activation_function"
    HEADS = ("encoder_attention_heads", "decoder_attention_heads")
    WIDTH = "d_model"
    TOKEN_IDS = (*ConfigFields.TOKEN_IDS, "bos_token_id")

    vocab_size: VocabularySize
    d_model: Width
    encoder_layers: Depth
    decoder_layers: Depth
    encoder_attention_heads: Heads
    decoder_attention_heads: Heads
    encoder_ffn_dim: InnerWidth
    decoder_ffn_dim: InnerWidth
    max_position_embeddings: int = Field(1024, ge=1, le=2**20)
    activation_function: str = "gelu"
    scale_embedding: bool = False
    tie_word_embeddings: bool = True
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.0
    activation_dropout: Probability = 0.0
    init_std: float = Field(0.02, ge=0, le=2**10)
    pad_token_id: TokenId = 1
    bos_token_id: TokenId = 0
    eos_token_id: TokenIds = 2
    decoder_start_token_id: TokenId | None = None
    forced_bos_token_id: TokenId | None = None
    forced_eos_token_id: TokenId | None = 2


class Bart(Family):
    """BART and mBART."""

    model_types = ("bart", "mbart")
    fields = BartFields
    pretraining = TextInfilling()
    leaves_out_positions = True
    optional_tensors = ("final_logits_bias",)

    def tensor_name(self, name: str) -> str:
        """Return the name in the model with an output layer, for those of the base model too."""
        return name if name.startswith(WITH_OUTPUT_LAYER) else f"model.{name}"

    def encoder_sizes(self, config: Any) -> BlockSizes:
        """Return the sizes of the encoder."""
        return _sizes(config, "encoder")

    def decoder_sizes(self, config: Any) -> BlockSizes:
        """Return the sizes of the decoder, which has the width of the encoder."""
        return _sizes(config, "decoder")

    def max_positions(self, config: Any) -> int:
        """Return the number of learned positions, which both stacks have."""
        return int(config.max_position_embeddings)

    def default_start_token_id(self, config: Any) -> int:
        """Return beginning-of-sequence, as `generate` does.

        Some settings of mBART have no start token, since it depends on the language.
        """
        return int(config.bos_token_id)

    def encoder_blocks(self, model: Any) -> Sequence[nn.Module]:
        """Return the blocks of the encoder."""
        blocks: Sequence[nn.Module] = model.get_encoder().layers
        return blocks

    def decoder_blocks(self, model: Any) -> Sequence[nn.Module]:
        """Return the blocks of the decoder."""
        blocks: Sequence[nn.Module] = model.get_decoder().layers
        return blocks

    @contextmanager
    def limit_positions(self, model: Any, text: int) -> Iterator[None]:
        """Add positions to the first `text` tokens only.

        With positions, image tokens would depend on the padding of the text before them. A hook
        sets their position embeddings to zero.
        """

        def zero_others(_table: nn.Module, _inputs: Any, positions_BSD: Tensor) -> Tensor:
            others = positions_BSD.shape[1] - text
            return nn.functional.pad(positions_BSD[:, :text], (0, 0, 0, others))

        handle = model.get_encoder().embed_positions.register_forward_hook(zero_others)
        try:
            yield
        finally:
            handle.remove()

    def output_layer(self, model: Any) -> OutputLayer:
        """Return the output layer; a method may add to its bias, which is a buffer of the model."""
        layer, bias_V = model.get_output_embeddings(), model.final_logits_bias[0]
        return OutputLayer(
            weight_VW=layer.weight, bias_V=bias_V if layer.bias is None else bias_V + layer.bias
        )

    def attentions(self, model: Any) -> Iterator[AttentionLayers]:
        """Yield self-attention, and cross-attention in the decoder."""
        for block, attentions in _blocks(model):
            for name in attentions:
                yield AttentionLayers(
                    sublayer=f"{block}.{name}",
                    query=f"{block}.{name}.q_proj",
                    key=f"{block}.{name}.k_proj",
                    value=f"{block}.{name}.v_proj",
                    output=f"{block}.{name}.out_proj",
                    norm=_norm_before(model, f"{block}.{name}_layer_norm"),
                    is_cross=name == "encoder_attn",
                )

    def feed_forwards(self, model: Any) -> Iterator[FeedForwardLayers]:
        """Yield the feed-forward layers, whose linear layers belong to the block itself."""
        for block, _ in _blocks(model):
            yield FeedForwardLayers(
                sublayer=f"{block}.fc2",
                inner=(f"{block}.fc1",),
                output=f"{block}.fc2",
                norm=_norm_before(model, f"{block}.final_layer_norm"),
            )

    def final_norms(self, model: Any) -> Iterator[nn.Module]:
        """Yield the norm after the last block of each stack of mBART, which BART lacks."""
        for stack in (model.get_encoder(), model.get_decoder()):
            if hasattr(stack, "layer_norm"):
                yield stack.layer_norm


def _sizes(config: Any, stack: str) -> BlockSizes:
    heads = int(getattr(config, f"{stack}_attention_heads"))
    return BlockSizes(
        depth=int(getattr(config, f"{stack}_layers")),
        width=int(config.d_model),
        heads=heads,
        head_width=int(config.d_model) // heads,
        inner_width=int(getattr(config, f"{stack}_ffn_dim")),
        is_gated=False,
        epsilon=EPSILON,
    )


def _norm_before(model: Any, norm: str) -> str | None:
    """Return a sublayer's norm if it comes before the sublayer, as in mBART."""
    return norm if model.config.model_type == "mbart" else None


def _blocks(model: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the name of each block and of its attentions, relative to it."""
    for layer in range(model.config.encoder_layers):
        yield f"model.encoder.layers.{layer}", ("self_attn",)
    for layer in range(model.config.decoder_layers):
        yield f"model.decoder.layers.{layer}", ("self_attn", "encoder_attn")


FAMILY = Bart()
