"""DoRA (Liu et al. 2024, arXiv 2402.09353): LoRA on weight directions; magnitudes train too.

The LST paper has no DoRA; this uses its settings for LoRA.
"""

from vl_lst.methods.lora import LowRankAdaptation

__all__ = ["METHOD"]

METHOD = LowRankAdaptation(decomposed=True)
