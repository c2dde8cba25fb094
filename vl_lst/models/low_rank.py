"""Low-rank updates of a model's frozen weights."""

from collections.abc import Iterator
from dataclasses import dataclass

from peft.tuners.lora import LoraLayer
from torch import nn

__all__ = ["LowRankFactors", "low_rank_factors"]


@dataclass(frozen=True, slots=True)
class LowRankFactors:
    """Factors of an update `scale B A` of a weight.

    Args:
        first: A, of shape [rank, inputs].
        second: B, of shape [outputs, rank].
        scale: Factor of `B A`.
    """

    first: nn.Parameter
    second: nn.Parameter
    scale: float


def low_rank_factors(model: nn.Module) -> Iterator[LowRankFactors]:
    """Yield the factors of all low-rank updates that `peft` has added to a model."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name in module.active_adapters:
                first, second = module.lora_A[name].weight, module.lora_B[name].weight
                assert isinstance(first, nn.Parameter)
                assert isinstance(second, nn.Parameter)
                yield LowRankFactors(first, second, scale=float(module.scaling[name]))
