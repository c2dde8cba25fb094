"""Tiny T5Gemma 2, with an image encoder that makes four tokens of an image."""

import copy

from tiny_backbones import TinyBackbone, TinyTokenizer
from torch import nn
from transformers import T5Gemma2Config, T5Gemma2ForConditionalGeneration

TOKENIZER = TinyTokenizer(
    special={
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "bos_token": "<bos>",
        "unk_token": "<unk>",
    },
    template="<bos> $A",
)
BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE = 4, 5, 6


def _stack(depth: int) -> dict[str, object]:
    return {
        "vocab_size": 67,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": depth,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 4,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"][:depth],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        "initializer_range": 0.2,
    }


def t5gemma2() -> T5Gemma2ForConditionalGeneration:
    """Return a whole model."""
    config = T5Gemma2Config(
        encoder={
            "text_config": _stack(3),
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 16,
                "patch_size": 4,
                "vision_use_head": False,
            },
            "mm_tokens_per_image": 4,
            "boi_token_index": BEGIN_OF_IMAGE,
            "eoi_token_index": END_OF_IMAGE,
        },
        decoder=_stack(2),
        image_token_index=IMAGE,
        initializer_range=0.2,
    )
    model = T5Gemma2ForConditionalGeneration(config)
    # It starts at zero, and so would all image tokens be.
    nn.init.normal_(model.get_encoder().multi_modal_projector.mm_input_projection_weight)
    return model


def _language_model(whole: T5Gemma2ForConditionalGeneration) -> T5Gemma2ForConditionalGeneration:
    language = copy.deepcopy(whole)
    encoder = language.get_encoder()
    del encoder.vision_tower, encoder.multi_modal_projector
    return language


BACKBONES = {
    "t5gemma2": TinyBackbone(build=t5gemma2, tokenizer=TOKENIZER, language=_language_model)
}
