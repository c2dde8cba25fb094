"""AdamW with gradients of matrices in a low-rank subspace: GaLore and APOLLO.

Both keep the moments of a gradient G [M, N], M >= N, of rank R: `G P^T`, where the projection P is
[R, N]. A matrix that is wider than tall is transposed. All other parameters train as with AdamW.

Both differ from `torch.optim.AdamW` in nothing else, so that a comparison of the three shows what
the projection changes. Step sizes of APOLLO's first steps are those of its published code, whose
limit on the growth of updates does not see Adam's bias correction.

M, N: sides of a matrix, R: rank of the projection.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vl_lst.errors import TrainingError

__all__ = ["Apollo", "GaLore", "ProjectedAdamW"]

# Steps of APOLLO's growth limit, as published (Fira, arXiv 2410.01623).
MAX_GROWTH = 1.01
# Added to norms that divide, as in APOLLO's published code.
NORM_EPS = 1e-8
# More than a run has projections of one parameter.
SEEDS_PER_PARAMETER = 1 << 24


class ProjectedAdamW(torch.optim.Optimizer, ABC):
    """AdamW in which groups with a `rank` have projected moments.

    Args:
        groups: Groups with `params`, `weight_decay` and, if their matrices are projected, `rank`,
            `update_proj_gap` (number of steps between projections) and `scale`.
        lr: Learning rate.
        betas: Decay rates of the first and second moments.
        eps: Term added to the denominator.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "rank": None}
        super().__init__(groups, defaults)
        parameters = (p for group in self.param_groups for p in group["params"])
        self._indices = {parameter: index for index, parameter in enumerate(parameters)}
        self._groups = {p: group for group in self.param_groups for p in group["params"]}

    def new_state(self, parameter: nn.Parameter) -> dict[str, Tensor | int]:
        """Return the state of a parameter before its first step."""
        rank = self._groups[parameter]["rank"]
        shape = parameter.shape if rank is None else (max(parameter.shape), rank)
        state: dict[str, Tensor | int] = {
            "step": 0,
            "exp_avg": parameter.new_zeros(shape),
            "exp_avg_sq": parameter.new_zeros(shape),
        }
        return state if rank is None else state | self.new_projection(parameter, rank)

    @abstractmethod
    def new_projection(self, parameter: nn.Parameter, rank: int) -> dict[str, Tensor | int]:
        """Return what the state of a projected parameter holds besides the moments."""

    @abstractmethod
    def project(
        self, gradient_MN: Tensor, state: dict[str, Any], group: Mapping[str, Any], index: int
    ) -> Tensor:
        """Return the projection [R, N] of a step.

        Args:
            gradient_MN: Gradient.
            state: State of the parameter; `step` is the number of steps done.
            group: Settings.
            index: Number of the parameter, counted from 0.
        """

    @abstractmethod
    def update(
        self,
        gradient_MN: Tensor,
        low_MR: Tensor,
        direction_MR: Tensor,
        projection_RN: Tensor,
        state: dict[str, Any],
        group: Mapping[str, Any],
    ) -> Tensor:
        """Return the update [M, N], before the learning rate and Adam's bias correction.

        Args:
            gradient_MN: Gradient.
            low_MR: Projected gradient.
            direction_MR: Adam's update of the projected gradient.
            projection_RN: Projection.
            state: State of the parameter.
            group: Settings.
        """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, group)

    def _step(self, parameter: nn.Parameter, gradient: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(self.new_state(parameter))
        is_projected = group["rank"] is not None
        is_transposed = is_projected and gradient.shape[0] < gradient.shape[1]
        if is_transposed:
            gradient = gradient.T
        low = gradient
        if is_projected:
            projection_RN = self.project(gradient, state, group, self._indices[parameter])
            low = gradient @ projection_RN.T
        state["step"] += 1
        direction, correction = _adam_direction(low, state, group)
        if is_projected:
            direction = self.update(gradient, low, direction, projection_RN, state, group)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        update = direction.T if is_transposed else direction
        parameter.add_(update, alpha=-group["lr"] * correction)


def _adam_direction(
    gradient: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]
) -> tuple[Tensor, float]:
    """Update the moments, and return Adam's update and the factor that corrects its bias."""
    first, second = group["betas"]
    state["exp_avg"].lerp_(gradient, 1 - first)
    state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    correction = math.sqrt(1 - second ** state["step"])
    denominator = state["exp_avg_sq"].sqrt().add_(group["eps"] * correction)
    return state["exp_avg"] / denominator, correction / (1 - first ** state["step"])


class GaLore(ProjectedAdamW):
    """Gradient low-rank projection (Zhao et al. 2024, arXiv 2403.03507).

    P holds the first R right singular vectors of G, computed every `update_proj_gap` steps. Adam's
    update of `G P^T` is projected back and multiplied by `scale`.
    """

    def new_projection(self, parameter: nn.Parameter, rank: int) -> dict[str, Tensor | int]:
        """Return the projection."""
        return {"projection": parameter.new_zeros((rank, min(parameter.shape)))}

    def project(
        self, gradient_MN: Tensor, state: dict[str, Any], group: Mapping[str, Any], index: int
    ) -> Tensor:
        """Return the projection of the last singular value decomposition."""
        projection_RN: Tensor = state["projection"]
        if state["step"] % group["update_proj_gap"] == 0:
            try:
                _, _, vectors_NN = torch.linalg.svd(gradient_MN, full_matrices=False)
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
                raise TrainingError(
                    f"the gradient of a matrix has no singular value decomposition, which "
                    f"optimizer galore needs ({error}): its values are probably not finite. Lower "
                    "optimizer.lr."
                ) from None
            projection_RN.copy_(vectors_NN[: group["rank"]])
        return projection_RN

    def update(
        self,
        gradient_MN: Tensor,
        low_MR: Tensor,
        direction_MR: Tensor,
        projection_RN: Tensor,
        state: dict[str, Any],
        group: Mapping[str, Any],
    ) -> Tensor:
        """Project Adam's update back."""
        back_MN = direction_MR @ projection_RN
        return back_MN.mul_(group["scale"])


class Apollo(ProjectedAdamW):
    """Approximated gradient scaling (Zhu et al. 2024, arXiv 2412.05270).

    P is random, and changes every `update_proj_gap` steps; it is drawn again in each step, so that
    no memory keeps it. The update is G, each row multiplied by the ratio of norms of Adam's update
    and of `G P^T` in that row (`scale_type` is `channel`), or all rows by that of the whole matrix
    (`tensor`, as in APOLLO-Mini), and by the root of `scale`. Its norm grows by at most 1 % per
    step.
    """

    def new_projection(self, parameter: nn.Parameter, rank: int) -> dict[str, Tensor | int]:
        """Return the norm of the last update; 0 before the first."""
        return {"update_norm": parameter.new_zeros(())}

    def project(
        self, gradient_MN: Tensor, state: dict[str, Any], group: Mapping[str, Any], index: int
    ) -> Tensor:
        """Draw the projection of this step."""
        interval = state["step"] // group["update_proj_gap"]
        generator = torch.Generator(gradient_MN.device)
        generator.manual_seed(index * SEEDS_PER_PARAMETER + interval)
        shape = (group["rank"], gradient_MN.shape[1])
        normal_RN = torch.randn(
            shape, generator=generator, device=gradient_MN.device, dtype=gradient_MN.dtype
        )
        return normal_RN / math.sqrt(group["rank"])

    def update(
        self,
        gradient_MN: Tensor,
        low_MR: Tensor,
        direction_MR: Tensor,
        projection_RN: Tensor,
        state: dict[str, Any],
        group: Mapping[str, Any],
    ) -> Tensor:
        """Scale the gradient."""
        dims = {"dim": 1, "keepdim": True} if group["scale_type"] == "channel" else {}
        factor = direction_MR.norm(**dims) / (low_MR.norm(**dims) + NORM_EPS)
        scaled_MN: Tensor = gradient_MN * factor
        norm = scaled_MN.norm()
        former: Tensor = state["update_norm"]
        limit = (norm / (former + NORM_EPS)).clamp(min=MAX_GROWTH) / MAX_GROWTH
        limit = torch.where(former > 0, limit, 1.0)
        state["update_norm"] = norm / limit
        return (scaled_MN / limit).mul_(math.sqrt(group["scale"]))
