"""DeBERTa v2 and v3 (arXiv 2006.03654, 2111.09543): attention between contents and positions.

B examples, S tokens, D width.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

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

__all__ = ["FAMILY", "Deberta", "DebertaFields"]


class DebertaFields(ConfigFields):
    """Fields of `DebertaV2Config`, with those that only published configurations have."""

    ACTIVATION = "hidden_act"
    HEADS = ("num_attention_heads",)

    vocab_size: VocabularySize
    hidden_size: Width
    num_hidden_layers: Depth
    num_attention_heads: Heads
    intermediate_size: InnerWidth
    hidden_act: str = "gelu"
    max_position_embeddings: int = Field(512, ge=1, le=2**20)
    type_vocab_size: int = Field(0, ge=0, le=2**10)
    initializer_range: float = Field(0.02, gt=0, le=1)
    layer_norm_eps: float = Field(1e-7, gt=0, le=1)
    relative_attention: bool = False
    max_relative_positions: int = Field(-1, ge=-1, le=2**20)
    position_buckets: int = Field(-1, ge=-1, le=2**20)
    norm_rel_ebd: Literal["none", "layer_norm"] = "none"
    share_att_key: bool = False
    pos_att_type: str | list[str] | None = None
    position_biased_input: bool = True
    pad_token_id: TokenId = 0
    # Checked only: the convolution of the largest v2 models changes the residual stream between
    # the first block and the second.
    conv_kernel_size: Literal[0] = 0


class Deberta(EncoderFamily):
    """DeBERTa v2 and v3, without a convolution."""

    model_types = ("deberta-v2",)
    fields = DebertaFields
    names = BlockNames(
        query="attention.self.query_proj",
        key="attention.self.key_proj",
        value="attention.self.value_proj",
    )

    def build_config(self, values: Mapping[str, Any]) -> Any:
        """Return the configuration, without the field that is only checked."""
        return super().build_config({k: v for k, v in values.items() if k != "conv_kernel_size"})

    def max_positions(self, config: Any) -> int | None:
        """Return the number of learned positions; `None` if all positions are relative."""
        return super().max_positions(config) if config.position_biased_input else None

    def replace_tokens(
        self, model: Any, arguments: MutableMapping[str, Any], states_BSD: Tensor, mask_BS: Tensor
    ) -> None:
        """Change the relative positions too; the mask is of pairs of tokens, and multiplied."""
        encoder = self.encoder(model).encoder
        arguments["attention_mask"] = encoder.get_attention_mask(mask_BS)
        arguments["relative_pos"] = encoder.get_rel_pos(states_BSD)

    def position_tables(self, model: Any) -> Iterator[nn.Module]:
        """Yield the table of relative positions, which all blocks share."""
        if model.config.relative_attention:
            yield self.encoder(model).encoder.rel_embeddings


FAMILY = Deberta()
