"""AdamW with two parameter groups, and the learning rate of each step."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from vl_lst.backbones.backbone import Backbone
from vl_lst.models.ladder.relative_bias import RelativePositionBias
from vl_lst.models.ladder.rungs import LearnedGates
from vl_lst.recipes.schema import OptimizerSection

__all__ = ["build_optimizer", "decayed_names", "learning_rate", "optimizer_bytes"]

# Modules whose parameters are scales or tables; pulling these to zero does not regularise.
UNDECAYED_MODULES = (
    nn.RMSNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._BatchNorm,
    RelativePositionBias,
    LearnedGates,
)


def decayed_names(
    model: nn.Module,
    trainable: Mapping[str, nn.Parameter],
    decay: Literal["weights", "reference"] = "weights",
) -> set[str]:
    """Return the names of the parameters that weight decay applies to.

    Args:
        model: Model that holds the parameters.
        trainable: Trainable parameters, by name.
        decay: `weights` excludes norms, gates, relative position biases, biases (also several
            stacked into a matrix) and all other parameters with at most one dimension, such as the
            factors of (IA)3. `reference` excludes only biases and relative position biases.
    """
    undecayed = UNDECAYED_MODULES if decay == "weights" else (RelativePositionBias,)
    min_dimensions = 2 if decay == "weights" else 0
    position_tables = {
        table
        for backbone in model.modules()
        if isinstance(backbone, Backbone)
        for table in backbone.family.position_tables(backbone.model)
    }
    decayed = set()
    for name, parameter in trainable.items():
        module_name, _, attribute = name.rpartition(".")
        module = model.get_submodule(module_name)
        exempt = (
            isinstance(module, undecayed)
            or attribute == "bias"
            or parameter.squeeze().ndim < min_dimensions
            or module in position_tables
        )
        if not exempt:
            decayed.add(name)
    return decayed


def build_optimizer(
    model: nn.Module, trainable: Mapping[str, nn.Parameter], settings: OptimizerSection
) -> torch.optim.AdamW:
    """Return AdamW over exactly the trainable parameters.

    Args:
        model: Model that holds the parameters.
        trainable: Trainable parameters, by name.
        settings: Optimiser settings of the recipe. The trainer sets the learning rate before each
            step.
    """
    decayed = decayed_names(model, trainable, settings.decay)
    groups = [
        {
            "params": [p for name, p in trainable.items() if name in decayed],
            "weight_decay": settings.weight_decay,
        },
        {
            "params": [p for name, p in trainable.items() if name not in decayed],
            "weight_decay": 0.0,
        },
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )


def learning_rate(step: int, total_steps: int, settings: OptimizerSection) -> float:
    """Return the learning rate of a step: linear warm-up from 0, then linear decay to 0.

    The paper's code uses the same schedule. A run that is shorter than its warm-up ends in it.

    Args:
        step: Number of the step, counted from 0.
        total_steps: Number of steps of the run.
        settings: Optimiser settings of the recipe.
    """
    warmup = _warmup_steps(total_steps, settings)
    if step < warmup:
        return settings.lr * step / warmup
    return settings.lr * (total_steps - step) / max(1, total_steps - warmup)


def _warmup_steps(total_steps: int, settings: OptimizerSection) -> int:
    if settings.warmup_share is not None:
        return int(total_steps * settings.warmup_share)
    return settings.warmup_steps or 0


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the size of an optimiser's state; 0 before the first step."""
    return sum(
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
