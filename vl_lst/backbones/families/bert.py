"""BERT (arXiv 1810.04805) and its relatives: RoBERTa, XLM-RoBERTa, ELECTRA, and MiniLM.

Encoders without a decoder: post-norm blocks with biases, learned positions. MiniLM's checkpoints
are of type `bert` or `xlm-roberta`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import nn
from transformers import AutoModel, PreTrainedModel

from vl_lst.backbones.config_fields import (
    ConfigFields,
    Depth,
    Heads,
    InnerWidth,
    TokenId,
    VocabularySize,
    Width,
)
from vl_lst.backbones.family import Family
from vl_lst.backbones.layers import AttentionLayers, BlockSizes, FeedForwardLayers

__all__ = ["FAMILY", "Bert", "BertFields", "BlockNames", "EncoderFamily"]

# Prefixes of checkpoints that were saved with a head.
PREFIXES = ("bert.", "roberta.", "electra.", "distilbert.", "deberta.")
# Names of a norm's parameters in checkpoints converted from TensorFlow.
FORMER_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# Types whose positions start after the id of the padding token, as in fairseq.
OFFSET_TYPES = ("roberta", "xlm-roberta")
# Default of transformers.
ELECTRA_EMBEDDING = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockNames:
    """Names of an encoder's blocks, and of the linear layers in a block.

    Args:
        blocks: List of the blocks.
        query: Linear layer of the queries.
        key: Linear layer of the keys.
        value: Linear layer of the values.
        attention_output: Linear layer after the heads. The block adds its output to its residual
            stream.
        inner: First linear layer of the feed-forward layer.
        output: Second one. The block adds its output to its residual stream.
    """

    blocks: str = "encoder.layer"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    inner: str = "intermediate.dense"
    output: str = "output.dense"


class EncoderFamily(Family):
    """Encoders without a decoder, loaded without the pooler and the heads of their pretraining."""

    has_decoder = False
    names: ClassVar[BlockNames]

    def model_class(self, config: Any) -> type[PreTrainedModel]:
        """Return the class without a head."""
        classes: Any = AutoModel._model_mapping
        kind: type[PreTrainedModel] = classes[type(config)]
        return kind

    def tensor_name(self, name: str) -> str | None:
        """Return the name without the prefix of a class with a head, and in today's notation."""
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        for former, current in FORMER_NAMES.items():
            if name.endswith(former):
                name = name.removesuffix(former) + current
        return name

    def encoder_sizes(self, config: Any) -> BlockSizes:
        """Return the sizes of the encoder."""
        return BlockSizes(
            depth=int(config.num_hidden_layers),
            width=int(config.hidden_size),
            heads=int(config.num_attention_heads),
            head_width=int(config.hidden_size // config.num_attention_heads),
            inner_width=int(config.intermediate_size),
            is_gated=False,
            epsilon=float(config.layer_norm_eps),
        )

    def max_positions(self, config: Any) -> int | None:
        """Return the number of learned positions."""
        return int(config.max_position_embeddings)

    def encoder(self, model: Any) -> Any:
        """Return the whole model, without a head."""
        return model.base_model

    def encoder_blocks(self, model: Any) -> Sequence[nn.Module]:
        """Return the blocks of the encoder."""
        blocks: Any = self.encoder(model).get_submodule(self.names.blocks)
        return list(blocks)

    def attentions(self, model: Any) -> Iterator[AttentionLayers]:
        """Yield the self-attention of each block."""
        names = self.names
        for block in self._block_names(model):
            yield AttentionLayers(
                sublayer=f"{block}.{names.attention_output}",
                query=f"{block}.{names.query}",
                key=f"{block}.{names.key}",
                value=f"{block}.{names.value}",
                output=f"{block}.{names.attention_output}",
            )

    def feed_forwards(self, model: Any) -> Iterator[FeedForwardLayers]:
        """Yield the feed-forward layer of each block."""
        names = self.names
        for block in self._block_names(model):
            yield FeedForwardLayers(
                sublayer=f"{block}.{names.output}",
                inner=(f"{block}.{names.inner}",),
                output=f"{block}.{names.output}",
            )

    def untrained_parameters(self, model: Any) -> Iterator[nn.Parameter]:
        """Yield the parameters of a pooler and of a head."""
        used = {
            id(parameter)
            for name, parameter in self.encoder(model).named_parameters()
            if not name.startswith("pooler.")
        }
        for parameter in model.parameters():
            if id(parameter) not in used:
                yield parameter

    def _block_names(self, model: Any) -> Iterator[str]:
        prefix = "" if self.encoder(model) is model else f"{model.base_model_prefix}."
        for layer in range(model.config.num_hidden_layers):
            yield f"{prefix}{self.names.blocks}.{layer}"


class BertFields(ConfigFields):
    """Fields of `BertConfig`, `RobertaConfig`, `XLMRobertaConfig` and `ElectraConfig`."""

    ACTIVATION = "hidden_act"
    HEADS = ("num_attention_heads",)

    vocab_size: VocabularySize
    hidden_size: Width
    embedding_size: Width | None = None
    num_hidden_layers: Depth
    num_attention_heads: Heads
    intermediate_size: InnerWidth
    hidden_act: str = "gelu"
    max_position_embeddings: int = Field(512, ge=1, le=2**20)
    type_vocab_size: int = Field(2, ge=1, le=2**10)
    initializer_range: float = Field(0.02, gt=0, le=1)
    layer_norm_eps: float = Field(1e-12, gt=0, le=1)
    pad_token_id: TokenId | None = None
    # Checked only: models with other values compute something else.
    is_decoder: Literal[False] = False
    position_embedding_type: Literal["absolute"] = "absolute"

    @model_validator(mode="after")
    def _require_one_width(self) -> Self:
        default = ELECTRA_EMBEDDING if self.model_type == "electra" else self.hidden_size
        width = self.embedding_size or default
        if width != self.hidden_size:
            raise ValueError(
                f"embedding_size is {width}, expected hidden_size, which is {self.hidden_size}: "
                "token embeddings of another width cannot stand next to image tokens"
            )
        return self

    @model_validator(mode="after")
    def _require_positions(self) -> Self:
        # By default, the padding token of these types has id 1.
        padding = 1 if self.pad_token_id is None else self.pad_token_id
        if self.model_type in OFFSET_TYPES and self.max_position_embeddings <= padding + 1:
            raise ValueError(
                f"max_position_embeddings is {self.max_position_embeddings}, expected more than "
                f"{padding + 1}, since positions start after pad_token_id {padding}"
            )
        return self


class Bert(EncoderFamily):
    """BERT, RoBERTa, XLM-RoBERTa, ELECTRA and MiniLM."""

    model_types = ("bert", "roberta", "xlm-roberta", "electra")
    fields = BertFields
    names = BlockNames()

    def build_config(self, values: Mapping[str, Any]) -> Any:
        """Return the configuration, without the fields that are only checked."""
        checked = ("is_decoder", "position_embedding_type")
        return super().build_config({k: v for k, v in values.items() if k not in checked})

    def model_arguments(self, config: Any) -> Mapping[str, Any]:
        """Leave out the pooler, which an ELECTRA does not have."""
        return {} if config.model_type == "electra" else {"add_pooling_layer": False}

    def max_positions(self, config: Any) -> int | None:
        """Return the number of learned positions, without those below the first that is used."""
        offset = config.pad_token_id + 1 if config.model_type in OFFSET_TYPES else 0
        return int(config.max_position_embeddings) - offset


FAMILY = Bert()
