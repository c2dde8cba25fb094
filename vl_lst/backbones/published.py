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

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "t5-small": _t5(512, 64, 2048, 6, 8),
    "t5-base": _t5(768, 64, 3072, 12, 12),
    "t5-large": _t5(1024, 64, 4096, 24, 16),
    "t5-3b": _t5(1024, 128, 16384, 24, 32),
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
}
