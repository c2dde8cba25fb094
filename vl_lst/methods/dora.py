"""DoRA (Liu et al. 2024, arXiv 2402.09353): LoRA on directions, while sizes train by themselves.

The paper this package follows has no DoRA; it gets LoRA's settings.
"""

from vl_lst.methods.lora import LowRankAdaptation

__all__ = ["METHOD"]

METHOD = LowRankAdaptation(decomposed=True)
