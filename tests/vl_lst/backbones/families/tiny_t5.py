"""Tiny T5, v1.1, mT5 and UMT5."""

from functools import partial

from tiny_backbones import TinyBackbone, TinyTokenizer
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from vl_lst.backbones.families.t5 import HAS_CAUSAL_UMT5

TOKENIZER = TinyTokenizer(
    special={"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    template="$A </s>",
)
SIZES = {
    "vocab_size": 61,
    "d_model": 24,
    "d_kv": 16,
    "d_ff": 40,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
}


def _t5(**others: object) -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(T5Config(**SIZES, **others))


BACKBONES = {
    "t5": TinyBackbone(build=_t5, tokenizer=TOKENIZER),
    "t5-v1.1": TinyBackbone(
        build=partial(_t5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        tokenizer=TOKENIZER,
    ),
    "mt5": TinyBackbone(
        build=lambda: MT5ForConditionalGeneration(MT5Config(**SIZES)), tokenizer=TOKENIZER
    ),
}
if HAS_CAUSAL_UMT5:
    BACKBONES["umt5"] = TinyBackbone(
        build=lambda: UMT5ForConditionalGeneration(UMT5Config(**SIZES)), tokenizer=TOKENIZER
    )
