"""DistilBERT (arXiv 1910.01108): a BERT with half of the blocks and without token types."""

from typing import Any

from pydantic import Field

from vl_lst.backbones.config_fields import (
    ConfigFields,
    Depth,
    Heads,
    InnerWidth,
    TokenId,
    VocabularySize,
    Width,
)
from vl_lst.backbones.families.bert import BlockNames, EncoderFamily
from vl_lst.backbones.layers import BlockSizes

__all__ = ["FAMILY", "DistilBert", "DistilBertFields"]

# Fixed in the model's code.
EPSILON = 1e-12


class DistilBertFields(ConfigFields):
    """Fields of `DistilBertConfig`."""

    ACTIVATION = "activation"
    HEADS = ("n_heads",)
    WIDTH = "dim"

    vocab_size: VocabularySize
    dim: Width
    hidden_dim: InnerWidth
    n_layers: Depth
    n_heads: Heads
    activation: str = "gelu"
    max_position_embeddings: int = Field(512, ge=1, le=2**20)
    sinusoidal_pos_embds: bool = False
    initializer_range: float = Field(0.02, gt=0, le=1)
    pad_token_id: TokenId = 0


class DistilBert(EncoderFamily):
    """DistilBERT."""

    model_types = ("distilbert",)
    fields = DistilBertFields
    names = BlockNames(
        blocks="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        inner="ffn.lin1",
        output="ffn.lin2",
    )

    def encoder_sizes(self, config: Any) -> BlockSizes:
        """Return the sizes of the encoder."""
        return BlockSizes(
            depth=int(config.n_layers),
            width=int(config.dim),
            heads=int(config.n_heads),
            head_width=int(config.dim // config.n_heads),
            inner_width=int(config.hidden_dim),
            is_gated=False,
            epsilon=EPSILON,
        )


FAMILY = DistilBert()
