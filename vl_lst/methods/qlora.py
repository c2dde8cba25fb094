"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314): LoRA on a backbone in 4 bits.

The same updates as `lora`, in float32, so that the two differ in nothing but the precision of the
frozen weights, through which gradients pass.
"""

from vl_lst.methods.lora import LowRankAdaptation

__all__ = ["METHOD", "QuantizedLowRankAdaptation"]


class QuantizedLowRankAdaptation(LowRankAdaptation):
    """LoRA that is refused on a backbone that is not quantized, where it would be `lora`."""

    needs_quantized_backbone = True


METHOD = QuantizedLowRankAdaptation()
