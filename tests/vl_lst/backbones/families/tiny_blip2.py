"""Tiny BLIP-2 with a T5 v1.1."""

from tiny_backbones import TinyBackbone, TinyTokenizer
from transformers import Blip2Config, Blip2ForConditionalGeneration

TOKENIZER = TinyTokenizer(
    special={"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    template="$A </s>",
)
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
TEXT = {
    "model_type": "t5",
    "vocab_size": 61,
    "d_model": 24,
    "d_kv": 16,
    "d_ff": 40,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
}


def _blip2() -> Blip2ForConditionalGeneration:
    config = Blip2Config(
        vision_config={**VISION, "image_size": 16, "patch_size": 8},
        qformer_config={**VISION, "vocab_size": 8},
        text_config=TEXT,
        num_query_tokens=4,
        image_token_index=60,
    )
    return Blip2ForConditionalGeneration(config)


BACKBONES = {
    "blip-2": TinyBackbone(
        build=_blip2, tokenizer=TOKENIZER, language=lambda model: model.language_model
    )
}
