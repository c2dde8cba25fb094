"""Sizes of the published T5 models by name; imports nothing slow."""

__all__ = ["T5_SIZES", "T5_V1_1_SIZES", "VOCABULARY", "t5_names"]

# d_model, d_kv, d_ff, num_layers (per stack), num_heads
T5_SIZES = {
    "t5-small": (512, 64, 2048, 6, 8),
    "t5-base": (768, 64, 3072, 12, 12),
    "t5-large": (1024, 64, 4096, 24, 16),
    "t5-3b": (1024, 128, 16384, 24, 32),
}
T5_V1_1_SIZES = {
    "small": (512, 64, 1024, 8, 6),
    "base": (768, 64, 2048, 12, 12),
    "large": (1024, 64, 2816, 24, 16),
    "xl": (2048, 64, 5120, 24, 32),
}
VOCABULARY = 32_128


def t5_names() -> list[str]:
    """Return the names of the published T5 models."""
    return [
        *T5_SIZES,
        *(f"google/t5-v1_1-{size}" for size in T5_V1_1_SIZES),
        *(f"google/flan-t5-{size}" for size in T5_V1_1_SIZES),
    ]
