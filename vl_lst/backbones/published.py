"""What `config.json` says of published models, by model ID; imports nothing slow.

With it, `vl-lst profile --dry-run` counts the bytes of a model that is not on the machine. A model
need not be listed here to be used.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["PUBLISHED"]


def _t5(
    width: int, head_width: int, inner_width: int, depth: int, heads: int, *, is_v1_1: bool = False
) -> dict[str, Any]:
    return {
        "model_type": "t5",
        "d_model": width,
        "d_kv": head_width,
        "d_ff": inner_width,
        "num_layers": depth,
        "num_heads": heads,
        "vocab_size": 32_128,
        "feed_forward_proj": "gated-gelu" if is_v1_1 else "relu",
        "tie_word_embeddings": not is_v1_1,
        "decoder_start_token_id": 0,
    }


_T5_V1_1 = {
    "small": _t5(512, 64, 1024, 8, 6, is_v1_1=True),
    "base": _t5(768, 64, 2048, 12, 12, is_v1_1=True),
    "large": _t5(1024, 64, 2816, 24, 16, is_v1_1=True),
    "xl": _t5(2048, 64, 5120, 24, 32, is_v1_1=True),
    "xxl": _t5(4096, 64, 10240, 24, 64, is_v1_1=True),
}


def _multilingual(
    model_type: str,
    vocabulary: int,
    sizes: tuple[int, int, int, int, int],
    decoder_depth: int | None = None,
) -> dict[str, Any]:
    """Return a relative of T5 v1.1 with another vocabulary, and maybe a shallower decoder."""
    return {
        **_t5(*sizes, is_v1_1=True),
        "model_type": model_type,
        "vocab_size": vocabulary,
        "num_decoder_layers": decoder_depth or sizes[3],
    }


def _bart(width: int, depth: int, heads: int, *, vocabulary: int = 50_265) -> dict[str, Any]:
    return {
        "model_type": "bart",
        "d_model": width,
        "vocab_size": vocabulary,
        "decoder_start_token_id": 2,
        **{f"{stack}_layers": depth for stack in ("encoder", "decoder")},
        **{f"{stack}_attention_heads": heads for stack in ("encoder", "decoder")},
        **{f"{stack}_ffn_dim": 4 * width for stack in ("encoder", "decoder")},
    }


_MT5 = {
    "small": (512, 64, 1024, 8, 6),
    "base": (768, 64, 2048, 12, 12),
    "large": (1024, 64, 2816, 24, 16),
    "xl": (2048, 64, 5120, 24, 32),
}
_BYT5 = {
    "small": ((1472, 64, 3584, 12, 6), 4),
    "base": ((1536, 64, 3968, 18, 12), 6),
    "large": ((1536, 64, 3840, 36, 16), 12),
}


def _bert(
    width: int, depth: int, vocabulary: int, *, heads: int | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads or width // 64,
        "intermediate_size": 4 * width,
        "vocab_size": vocabulary,
        **more,
    }


_ROBERTA: dict[str, Any] = {
    "model_type": "roberta",
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
}
_XLM_ROBERTA: dict[str, Any] = {**_ROBERTA, "model_type": "xlm-roberta"}


def _distilbert(vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "distilbert",
        "dim": 768,
        "hidden_dim": 3072,
        "n_layers": 6,
        "n_heads": 12,
        "vocab_size": vocabulary,
    }


def _electra(width: int, depth: int) -> dict[str, Any]:
    return _bert(width, depth, 30_522, model_type="electra", embedding_size=width)


def _deberta_v3(width: int, depth: int) -> dict[str, Any]:
    return {
        "model_type": "deberta-v2",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
        "vocab_size": 128_100,
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
    }


def _rotary(
    width: int,
    inner_width: int,
    depth: int,
    heads: int,
    key_heads: int,
    head_width: int,
    **more: Any,
) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner_width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": head_width,
        **more,
    }


# Stacks of T5Gemma, of which it has pairs.
_T5GEMMA = {
    "s": _rotary(512, 1024, 8, 8, 8, 64),
    "b": _rotary(768, 2048, 12, 12, 12, 64),
    "l": _rotary(1024, 2816, 24, 16, 16, 64),
    "xl": _rotary(2048, 5120, 24, 32, 32, 64),
    "2b": _rotary(2304, 9216, 26, 8, 4, 256),
    "9b": _rotary(3584, 14336, 42, 16, 8, 256),
}
_T5GEMMA_PAIRS = ("s-s", "b-b", "l-l", "xl-xl", "2b-2b", "9b-2b", "9b-9b")


def _t5gemma(pair: str, *, is_tuned: bool) -> dict[str, Any]:
    encoder, decoder = (_T5GEMMA[size] for size in pair.split("-"))
    config = {"model_type": "t5gemma", "encoder": encoder, "decoder": decoder}
    # The second token ends a turn.
    return {**config, "eos_token_id": [1, 107]} if is_tuned else config


# Stacks of T5Gemma 2, of which it has pairs of equals.
_T5GEMMA_2 = {
    "270m": _rotary(640, 2048, 18, 4, 1, 256, sliding_window=512),
    "1b": _rotary(1152, 6912, 26, 4, 1, 256, sliding_window=512),
    "4b": _rotary(2560, 10240, 34, 8, 4, 256, sliding_window=1024),
}


def _t5gemma_2(size: str) -> dict[str, Any]:
    stack = {**_T5GEMMA_2[size], "vocab_size": 262_144}
    return {"model_type": "t5gemma2", "encoder": {"text_config": stack}, "decoder": stack}


PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "t5-small": _t5(512, 64, 2048, 6, 8),
    "t5-base": _t5(768, 64, 3072, 12, 12),
    "t5-large": _t5(1024, 64, 4096, 24, 16),
    "t5-3b": _t5(1024, 128, 16384, 24, 32),
    "t5-11b": _t5(1024, 128, 65536, 24, 128),
    **{f"google/t5-v1_1-{size}": config for size, config in _T5_V1_1.items()},
    **{f"google/flan-t5-{size}": config for size, config in _T5_V1_1.items()},
    # The language model alone.
    **{
        f"Salesforce/blip2-flan-t5-{size}": {
            "model_type": "blip-2",
            "num_query_tokens": 32,
            "text_config": _T5_V1_1[size],
        }
        for size in ("xl", "xxl")
    },
    **{f"google/mt5-{size}": _multilingual("mt5", 250_112, mt5) for size, mt5 in _MT5.items()},
    **{
        f"google/umt5-{size}": _multilingual("umt5", 256_384, _MT5[size])
        for size in ("small", "base", "xl")
    },
    **{
        f"google/byt5-{size}": _multilingual("t5", 384, sizes, decoder)
        for size, (sizes, decoder) in _BYT5.items()
    },
    "facebook/bart-base": _bart(768, 6, 12),
    "facebook/bart-large": _bart(1024, 12, 16),
    "facebook/mbart-large-50": {
        **_bart(1024, 12, 16, vocabulary=250_054),
        "model_type": "mbart",
        "scale_embedding": True,
    },
    **{
        f"google/t5gemma-{pair}-ul2{suffix}": _t5gemma(pair, is_tuned=bool(suffix))
        for pair in _T5GEMMA_PAIRS
        for suffix in ("", "-it")
    },
    # The language model alone.
    **{f"google/t5gemma-2-{size}-{size}": _t5gemma_2(size) for size in _T5GEMMA_2},
    "bert-base-uncased": _bert(768, 12, 30_522),
    "bert-base-cased": _bert(768, 12, 28_996),
    "bert-large-uncased": _bert(1024, 24, 30_522),
    "bert-large-cased": _bert(1024, 24, 28_996),
    "bert-base-multilingual-cased": _bert(768, 12, 119_547),
    "distilbert-base-uncased": _distilbert(30_522),
    "distilbert-base-cased": _distilbert(28_996),
    "roberta-base": _bert(768, 12, 50_265, **_ROBERTA),
    "roberta-large": _bert(1024, 24, 50_265, **_ROBERTA),
    "xlm-roberta-base": _bert(768, 12, 250_002, **_XLM_ROBERTA),
    "xlm-roberta-large": _bert(1024, 24, 250_002, **_XLM_ROBERTA),
    "google/electra-base-discriminator": _electra(768, 12),
    "google/electra-large-discriminator": _electra(1024, 24),
    "microsoft/deberta-v3-base": _deberta_v3(768, 12),
    "microsoft/deberta-v3-large": _deberta_v3(1024, 24),
    "microsoft/MiniLM-L12-H384-uncased": _bert(384, 12, 30_522, heads=12),
    "sentence-transformers/all-MiniLM-L6-v2": _bert(384, 6, 30_522, heads=12),
    "sentence-transformers/all-MiniLM-L12-v2": _bert(384, 12, 30_522, heads=12),
}
