"""T5Gemma (arXiv 2504.06225): an encoder and a decoder made of two Gemma 2, of any two sizes.

Blocks with a norm before and after each sublayer; rotary positions; key and value heads that
several query heads share; windows in every other block. The scale of the embeddings is inside the
encoder and the decoder, and the logits have a bound.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PretrainedConfig

from vl_lst.backbones.config_fields import (
    ConfigFields,
    Depth,
    Heads,
    InnerWidth,
    NestedFields,
    Probability,
    TokenId,
    TokenIds,
    VocabularySize,
    Width,
)
from vl_lst.backbones.family import Family
from vl_lst.backbones.layers import AttentionLayers, BlockSizes, FeedForwardLayers, OutputLayer
from vl_lst.backbones.pretraining import PrefixLanguageModelling

__all__ = ["FAMILY", "PairFields", "RotaryFields", "StackFields", "T5Gemma", "T5GemmaFields"]

LayerType = Literal["sliding_attention", "full_attention"]


class RotaryFields(NestedFields):
    """Frequencies of rotary positions; `factor` divides the positions in the type `linear`."""

    rope_type: Literal["default", "linear"] = "default"
    rope_theta: float = Field(10_000.0, gt=0, le=1e12)
    factor: float = Field(1.0, ge=1, le=2**16)


class StackFields(NestedFields):
    """Fields of one stack, with the defaults of `T5GemmaModuleConfig`."""

    ACTIVATION = "hidden_activation"
    TOKEN_IDS = ("pad_token_id", "eos_token_id", "bos_token_id")

    vocab_size: VocabularySize = 256_000
    hidden_size: Width = 2304
    intermediate_size: InnerWidth = 9216
    num_hidden_layers: Depth = 26
    num_attention_heads: Heads = 8
    num_key_value_heads: Heads = 4
    head_dim: Width = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    attention_bias: bool = False
    query_pre_attn_scalar: int = Field(256, ge=1, le=2**20)
    sliding_window: int = Field(4096, ge=2, le=2**30)
    layer_types: list[LayerType] | None = None
    max_position_embeddings: int = Field(8192, ge=1, le=2**30)
    attn_logit_softcapping: float | None = Field(50.0, gt=0)
    final_logit_softcapping: float | None = Field(30.0, gt=0)
    initializer_range: float = Field(0.02, ge=0, le=2**10)
    rms_norm_eps: float = Field(1e-6, gt=0)
    pad_token_id: TokenId = 0
    eos_token_id: TokenIds = 1
    bos_token_id: TokenId = 2

    @model_validator(mode="after")
    def _require_consistent_sizes(self) -> Self:
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim is {self.head_dim}, expected an even number: rotary positions turn pairs"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads is {self.num_key_value_heads}, expected a divisor of "
                f"num_attention_heads, which is {self.num_attention_heads}"
            )
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types has {len(self.layer_types)} entries, expected one per block, of "
                f"which there are {self.num_hidden_layers}"
            )
        return self


class ModuleFields(StackFields):
    """Fields of `T5GemmaModuleConfig`."""

    rope_parameters: RotaryFields | None = None
    rope_theta: float = Field(10_000.0, gt=0, le=1e12)


class PairFields(ConfigFields):
    """Fields of the configuration around those of an encoder and a decoder."""

    TOKEN_IDS = ("pad_token_id", "eos_token_id", "decoder_start_token_id")

    dropout_rate: Probability = 0.0
    attention_dropout: Probability = 0.0
    tie_word_embeddings: bool = True
    pad_token_id: TokenId | None = None
    eos_token_id: TokenIds | None = None
    decoder_start_token_id: TokenId | None = None

    def values(self) -> dict[str, Any]:
        """Return the fields that the file has by name; `None` may differ from the default.

        Ids of tokens that are `None` are left out, so that those of the decoder apply.
        """
        fields = self.model_dump(exclude_unset=True)
        return {k: v for k, v in fields.items() if k not in self.TOKEN_IDS or v is not None}


class T5GemmaFields(PairFields):
    """Fields of `T5GemmaConfig`."""

    encoder: ModuleFields
    decoder: ModuleFields

    @property
    def vocab_size(self) -> int:
        """Number of tokens that both stacks embed."""
        return self.decoder.vocab_size

    @model_validator(mode="after")
    def _require_one_vocabulary(self) -> Self:
        if self.encoder.vocab_size != self.decoder.vocab_size:
            raise ValueError(
                f"the encoder has a vocab_size of {self.encoder.vocab_size} and the decoder one of "
                f"{self.decoder.vocab_size}: expected the same, since they share the tokenizer"
            )
        return self


class T5Gemma(Family):
    """T5Gemma, whose encoder and decoder may have different sizes."""

    model_types = ("t5gemma",)
    fields: ClassVar[type[ConfigFields]] = T5GemmaFields
    # Also a part of UL2, with which other checkpoints were pretrained.
    pretraining = PrefixLanguageModelling()

    encoder_prefix: ClassVar[str] = "model.encoder"
    """Name of the module with the encoder's blocks."""

    def build_config(self, values: Mapping[str, Any]) -> PretrainedConfig:
        """Return the configuration of a model with the attention that bounds its logits."""
        # Earlier releases of transformers choose a fused attention, which ignores the bound.
        return super().build_config({**values, "attn_implementation": "eager"})

    def tensor_name(self, name: str) -> str | None:
        """Return the name of a tensor; in a checkpoint of the base class it has no prefix."""
        return name if name.startswith(("model.", "lm_head.")) else f"model.{name}"

    # Sizes and tokens

    def encoder_config(self, config: Any) -> Any:
        """Return the configuration of the encoder's blocks."""
        return config.encoder

    def encoder_sizes(self, config: Any) -> BlockSizes:
        """Return the sizes of the encoder."""
        return _sizes(self.encoder_config(config))

    def decoder_sizes(self, config: Any) -> BlockSizes:
        """Return the sizes of the decoder, which may all differ from the encoder's."""
        return _sizes(config.decoder)

    def vocabulary_size(self, config: Any) -> int:
        """Return V, which is equal in both stacks."""
        return int(config.decoder.vocab_size)

    def set_vocabulary_size(self, config: Any, size: int) -> None:
        """Change the vocabulary in all configurations that state it."""
        for part in (config, self.encoder_config(config), config.decoder):
            part.vocab_size = size

    def start_token_id(self, model: Any) -> int:
        """Return the id of the token that starts the decoder: that of the beginning of a text."""
        chosen = getattr(model.generation_config, "decoder_start_token_id", None)
        return int(model.config.decoder.bos_token_id if chosen is None else chosen)

    # Running the model

    def encoder(self, model: Any) -> Any:
        """Return the module that embeds and encodes text."""
        return model.get_submodule(self.encoder_prefix)

    def encoder_blocks(self, model: Any) -> Sequence[nn.Module]:
        """Return the blocks of the encoder."""
        blocks: Sequence[nn.Module] = self.encoder(model).layers
        return blocks

    def decoder_blocks(self, model: Any) -> Sequence[nn.Module]:
        """Return the blocks of the decoder."""
        blocks: Sequence[nn.Module] = self.decoder(model).layers
        return blocks

    def embed(self, model: Any, ids_BT: Tensor) -> Tensor:
        """Return token embeddings [B, T, D] of the encoder's table."""
        embedded_BTD: Tensor = self.encoder(model).get_input_embeddings()(ids_BT)
        return embedded_BTD

    def input_scale(self, config: Any) -> float:
        """Return the factor in the encoder."""
        return float(self.encoder_sizes(config).width ** 0.5)

    def embed_answer(self, model: Any, ids_BL: Tensor) -> Tensor:
        """Return token embeddings [B, L, W] of the decoder's table."""
        embedded_BLW: Tensor = self.decoder(model).get_input_embeddings()(ids_BL)
        return embedded_BLW

    def new_cache(self, model: Any) -> EncoderDecoderCache:
        """Return a cache that keeps the window of blocks with one, and all encoder states."""
        return EncoderDecoderCache(DynamicCache(config=model.config.decoder), DynamicCache())

    def output_layer(self, model: Any) -> OutputLayer:
        """Return the output layer, whose logits are bounded."""
        layer, bound = model.get_output_embeddings(), model.config.decoder.final_logit_softcapping
        return OutputLayer(
            weight_VW=layer.weight,
            bias_V=layer.bias,
            softcap=None if bound is None else float(bound),
        )

    # Layers that methods adapt

    def attentions(self, model: Any) -> Iterator[AttentionLayers]:
        """Yield self-attention, and cross-attention where the decoder has one."""
        for block, module in self._blocks(model):
            for name in ("self_attn", "cross_attn"):
                if hasattr(module, name):
                    yield AttentionLayers(
                        # Of the attention's output, the block adds the norm.
                        sublayer=f"{block}.post_{name}_layernorm",
                        query=f"{block}.{name}.q_proj",
                        key=f"{block}.{name}.k_proj",
                        value=f"{block}.{name}.v_proj",
                        output=f"{block}.{name}.o_proj",
                        norm=f"{block}.pre_{name}_layernorm",
                        is_cross=name == "cross_attn",
                    )

    def feed_forwards(self, model: Any) -> Iterator[FeedForwardLayers]:
        """Yield the gated feed-forward layers."""
        for block, _ in self._blocks(model):
            yield FeedForwardLayers(
                sublayer=f"{block}.post_feedforward_layernorm",
                inner=(f"{block}.mlp.gate_proj", f"{block}.mlp.up_proj"),
                output=f"{block}.mlp.down_proj",
                norm=f"{block}.pre_feedforward_layernorm",
            )

    def final_norms(self, model: Any) -> Iterator[nn.Module]:
        """Yield the norm after the last block of each stack."""
        yield self.encoder(model).norm
        yield model.get_decoder().norm

    def _blocks(self, model: Any) -> Iterator[tuple[str, nn.Module]]:
        """Yield all blocks with their names."""
        for index, block in enumerate(self.encoder_blocks(model)):
            yield f"{self.encoder_prefix}.layers.{index}", block
        for index, block in enumerate(self.decoder_blocks(model)):
            yield f"model.decoder.layers.{index}", block


def _sizes(stack: Any) -> BlockSizes:
    return BlockSizes(
        depth=int(stack.num_hidden_layers),
        width=int(stack.hidden_size),
        heads=int(stack.num_attention_heads),
        head_width=int(stack.head_dim),
        inner_width=int(stack.intermediate_size),
        is_gated=True,
        epsilon=float(stack.rms_norm_eps),
    )


FAMILY = T5Gemma()
