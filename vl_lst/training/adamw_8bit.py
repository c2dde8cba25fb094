"""AdamW whose moments are quantized to 8 bits in blocks (Dettmers et al. 2021, arXiv 2110.02861).

`torchao` computes it. Moments of parameters with fewer than 4,096 values stay in float32.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchao.optim import AdamW8bit

__all__ = ["QuantizedAdamW"]

# Of a parameter whose moments torchao quantizes.
QUANTIZED_SIZE = 4096


class QuantizedAdamW(AdamW8bit):  # type: ignore[misc]
    """AdamW with 8-bit moments, in operations that need no compiler.

    `torchao` compiles a step for each shape of a parameter; training would need a compiler, start
    minutes later, and resume differently where the compiler differs.

    Args:
        groups: Groups of parameters, as for `torch.optim.AdamW`.
        settings: Other arguments of `torchao.optim.AdamW8bit`.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **settings: Any) -> None:
        super().__init__(groups, **settings)
        for is_signed in (True, False):
            # torchao computes tables at the first use, which fails if tensors have no data then.
            self._new_buffer(torch.zeros(QUANTIZED_SIZE), is_signed)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group whose learning rate stays a number, which `step` converts."""
        torch.optim.Optimizer.add_param_group(self, param_group)

    def new_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return the state of a parameter before its first step."""
        return {
            "step": torch.tensor(0.0),
            "exp_avg": self._new_buffer(parameter, True),
            "exp_avg_sq": self._new_buffer(parameter, False),
        }

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update all parameters that have a gradient."""
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32)
        try:
            with torch.compiler.set_stance("force_eager"):
                super().step()
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
