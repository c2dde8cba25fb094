"""LoRA-FA (Zhang et al. 2023, arXiv 2308.03303): LoRA whose factor A stays as initialised.

Autograd then saves `A x`, which is small, and not x. B's gradient is replaced with the one whose
update `scale B A` is nearest to a step of the whole weight along its gradient:

    gradient of B <- gradient of B (A A^T)^-1 / scale^2

`peft.optimizers.LoraFAOptimizer` computes the same, but rounds the product to bfloat16 in runs in
float32 too, and keeps its state by name, where PyTorch's own functions do not find it.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vl_lst.models.low_rank import LowRankFactors

__all__ = ["LoraFA"]


class LoraFA(torch.optim.AdamW):
    """AdamW that projects the gradients of the factors B before each step.

    Args:
        groups: Groups of parameters, as for `torch.optim.AdamW`.
        factors: All low-rank updates of the model.
        settings: Other arguments of `torch.optim.AdamW`.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], factors: Iterable[LowRankFactors], **settings: Any
    ) -> None:
        super().__init__(groups, **settings)
        self._factors = list(factors)
        self._inverses: dict[nn.Parameter, Tensor] = {}

    def derived_tensors(self) -> Iterator[Tensor]:
        """Yield what the optimizer keeps in memory besides its state, computed from A."""
        yield from self._inverses.values()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Project the gradients, then update all parameters that have one."""
        for factors in self._factors:
            gradient = factors.second.grad
            if gradient is not None:
                gradient.copy_(gradient @ self._inverse(factors))
        super().step()

    def _inverse(self, factors: LowRankFactors) -> Tensor:
        """Return `(A A^T)^-1 / scale^2`, computed once, since A never changes."""
        inverse = self._inverses.get(factors.second)
        if inverse is None:
            first = factors.first
            # A pseudo-inverse, since the rank may exceed the number of inputs.
            inverse = torch.linalg.pinv(first @ first.T, hermitian=True) / factors.scale**2
            self._inverses[factors.second] = inverse
        return inverse
