"""Tiny BART and mBART."""

from tiny_backbones import TinyBackbone, TinyTokenizer
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
)

SPECIAL = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}
SIZES = {
    "vocab_size": 61,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 200,
    # With the usual 0.02, models this narrow hardly depend on their input.
    "init_std": 0.2,
    # Only the last token of answers that are cut off would be replaced.
    "forced_eos_token_id": None,
}


def _bart() -> BartForConditionalGeneration:
    model = BartForConditionalGeneration(BartConfig(**SIZES))
    model.final_logits_bias.normal_()
    return model


def _mbart() -> MBartForConditionalGeneration:
    return MBartForConditionalGeneration(
        MBartConfig(**SIZES, scale_embedding=True, decoder_start_token_id=2)
    )


BACKBONES = {
    "bart": TinyBackbone(
        build=_bart, tokenizer=TinyTokenizer(special=SPECIAL, template="<s> $A </s>")
    ),
    "mbart": TinyBackbone(
        build=_mbart,
        tokenizer=TinyTokenizer(special=SPECIAL | {"cls_token": "en_XX"}, template="en_XX $A </s>"),
    ),
}
