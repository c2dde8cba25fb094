"""AdamW with two groups of parameters, and the learning rate of each step."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from transformers.models.t5.modeling_t5 import T5Attention

from vl_lst.models.ladder.relative_bias import RelativePositionBias
from vl_lst.models.ladder.rungs import LearnedGates
from vl_lst.recipes.schema import OptimizerSection

__all__ = ["build_optimizer", "decayed_names", "learning_rate"]

# Tables and scales whose size means something by itself: pulling them to zero is no regulariser.
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
    """Names of the parameters that weight decay applies to.

    Args:
        model: Holds the parameters.
        trainable: By name.
        decay: With `weights`, not norms, gates, relative position biases, biases (also where
            several are stacked into a matrix) and whatever else has no more than one dimension,
            such as (IA)3's factors. With `reference`, everything but biases and relative position
            biases.
    """
    undecayed = UNDECAYED_MODULES if decay == "weights" else (RelativePositionBias,)
    fewest_dimensions = 2 if decay == "weights" else 0
    kept = set()
    for name, parameter in trainable.items():
        module_name, _, attribute = name.rpartition(".")
        module = model.get_submodule(module_name)
        exempt = (
            isinstance(module, undecayed)
            or attribute == "bias"
            or parameter.squeeze().ndim < fewest_dimensions
            or _is_position_bias(model, module_name)
        )
        if not exempt:
            kept.add(name)
    return kept


def _is_position_bias(model: nn.Module, module_name: str) -> bool:
    """Whether it is the backbone's own table, the one embedding within its attentions."""
    attention = model.get_submodule(module_name.rpartition(".")[0])
    embedding = model.get_submodule(module_name)
    return isinstance(attention, T5Attention) and isinstance(embedding, nn.Embedding)


def build_optimizer(
    model: nn.Module, trainable: Mapping[str, nn.Parameter], settings: OptimizerSection
) -> torch.optim.AdamW:
    """AdamW over exactly `trainable`.

    Args:
        model: Holds the parameters.
        trainable: By name.
        settings: Of the recipe; the learning rate is set anew before each step.
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
    """Linear warm-up from zero, then linear decay to zero, as in the paper's code.

    Args:
        step: Counted from 0.
        total_steps: Of the run.
        settings: Of the recipe.
    """
    warmup = int(total_steps * settings.warmup_share)
    if step < warmup:
        return settings.lr * step / warmup
    return settings.lr * (total_steps - step) / max(1, total_steps - warmup)
