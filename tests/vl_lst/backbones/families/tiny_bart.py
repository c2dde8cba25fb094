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
}


def _bart(**others: object) -> BartForConditionalGeneration:
    model = BartForConditionalGeneration(BartConfig(**SIZES, **others))
    # So that random models rarely repeat their input.
    model.final_logits_bias.uniform_(-0.1, 0.1)
    return model


def _bart_with_forced_token() -> BartForConditionalGeneration:
    model = _bart(activation_function="relu")
    model.generation_config.forced_bos_token_id = 0
    return model


def _mbart() -> MBartForConditionalGeneration:
    return MBartForConditionalGeneration(
        MBartConfig(**SIZES, scale_embedding=True, decoder_start_token_id=2)
    )


BACKBONES = {
    "bart": TinyBackbone(
        build=_bart, tokenizer=TinyTokenizer(special=SPECIAL, template="<s> $A </s>")
    ),
    "bart-forced": TinyBackbone(
        build=_bart_with_forced_token,
        tokenizer=TinyTokenizer(special=SPECIAL, template="<s> $A </s>"),
    ),
    "mbart": TinyBackbone(
        build=_mbart,
        tokenizer=TinyTokenizer(special=SPECIAL | {"cls_token": "en_XX"}, template="en_XX $A </s>"),
    ),
}
