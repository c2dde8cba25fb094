"""Tiny T5Gemma, whose encoder and decoder differ in every size."""

from tiny_backbones import TinyBackbone, TinyTokenizer
from transformers import T5GemmaConfig, T5GemmaForConditionalGeneration

TOKENIZER = TinyTokenizer(
    special={
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "bos_token": "<bos>",
        "unk_token": "<unk>",
    },
    template="<bos> $A",
)
ENCODER = {
    "vocab_size": 67,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 4,
    "query_pre_attn_scalar": 8,
    "initializer_range": 0.2,
}
DECODER = {
    **ENCODER,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "final_logit_softcapping": 2.0,
}


def _t5gemma() -> T5GemmaForConditionalGeneration:
    config = T5GemmaConfig(
        encoder=ENCODER,
        decoder=DECODER,
        vocab_size=ENCODER["vocab_size"],
        # Earlier releases of transformers choose a fused attention, which ignores the bound.
        attn_implementation="eager",
    )
    return T5GemmaForConditionalGeneration(config)


BACKBONES = {"t5gemma": TinyBackbone(build=_t5gemma, tokenizer=TOKENIZER)}
