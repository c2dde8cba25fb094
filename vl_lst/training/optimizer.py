"""The optimizer with its parameter groups, and the learning rate of each step."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import nn

from vl_lst.backbones.backbone import Backbone
from vl_lst.backbones.quantization import inner_tensors
from vl_lst.errors import RecipeError
from vl_lst.models.ladder.relative_bias import RelativePositionBias
from vl_lst.models.ladder.rungs import LearnedGates
from vl_lst.models.low_rank import low_rank_factors
from vl_lst.recipes.schema import OptimizerSection
from vl_lst.training.lora_fa import LoraFA
from vl_lst.training.projected_adamw import Apollo, GaLore

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
) -> torch.optim.Optimizer:
    """Return the optimizer of exactly the trainable parameters.

    Args:
        model: Model that holds the parameters.
        trainable: Trainable parameters, by name.
        settings: Optimizer settings of the recipe. The trainer sets the learning rate before each
            step.

    Raises:
        RecipeError: The optimizer projects matrices, and all are smaller than the projection; or it
            needs torchao, which is not installed.
    """
    decayed = decayed_names(model, trainable, settings.decay)
    projected = _projected_names(model, trainable, settings)
    groups = []
    for is_projected in (True, False):
        for is_decayed in (True, False):
            chosen = [
                parameter
                for name, parameter in trainable.items()
                if (name in projected, name in decayed) == (is_projected, is_decayed)
            ]
            group: dict[str, Any] = {
                "params": chosen,
                "weight_decay": settings.weight_decay if is_decayed else 0.0,
            }
            if is_projected and settings.projection is not None:
                group |= settings.projection.model_dump()
            if chosen:
                groups.append(group)
    common: dict[str, Any] = {"lr": settings.lr, "betas": settings.betas, "eps": settings.eps}
    match settings.name:
        case "adamw":
            return torch.optim.AdamW(groups, **common, fused=True)
        case "adamw-8bit":
            try:
                from vl_lst.training.adamw_8bit import QuantizedAdamW
            except ImportError as error:
                raise RecipeError(
                    "optimizer.name adamw-8bit needs the package torchao, whose optimizers cannot "
                    f"be imported ({error}); run `pip install -U torchao`, or use adamw"
                ) from error
            return QuantizedAdamW(groups, **common)
        case "lora-fa":
            return LoraFA(groups, low_rank_factors(model), **common, fused=True)
        case "galore":
            return GaLore(groups, **common)
        case "apollo":
            return Apollo(groups, **common)


def _projected_names(
    model: nn.Module, trainable: Mapping[str, nn.Parameter], settings: OptimizerSection
) -> set[str]:
    """Return the names of the matrices whose gradients the optimizer projects.

    Raises:
        RecipeError: There are none.
    """
    if settings.projection is None:
        return set()
    tables = {
        id(module.weight)
        for module in _modules_with_tables(model)
        if isinstance(module.weight, nn.Parameter)
    }
    sides = {
        name: min(parameter.shape)
        for name, parameter in trainable.items()
        if parameter.ndim == 2
        and id(parameter) not in tables
        and not isinstance(model.get_submodule(name.rpartition(".")[0]), UNDECAYED_MODULES)
    }
    rank = settings.projection.rank
    projected = {name for name, side in sides.items() if side > rank}
    if not projected:
        largest = max(sides.values(), default=0)
        advice = f"at most {largest - 1}" if largest > 1 else "another optimizer, such as adamw"
        raise RecipeError(
            f"optimizer.projection.rank: found {rank}, and the smaller sides of the matrices that "
            f"train have at most {largest} values, so {settings.name} would project none; expected "
            f"{advice}"
        )
    return projected


def _modules_with_tables(model: nn.Module) -> Iterator[Any]:
    """Yield embeddings and output layers, one row per token or position."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            yield module
        elif isinstance(module, Backbone):
            output_layer = module.model.get_output_embeddings()
            if output_layer is not None:
                yield output_layer


def learning_rate(step: int, total_steps: int, settings: OptimizerSection) -> float:
    """Return the learning rate of a step: linear warm-up from 0, then linear decay to 0.

    The paper's code uses the same schedule. A run that is shorter than its warm-up ends in it.

    Args:
        step: Number of the step, counted from 0.
        total_steps: Number of steps of the run.
        settings: Optimizer settings of the recipe.
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
    """Return the bytes of tensors that an optimizer keeps between steps; 0 before the first.

    Quantized moments count as their codes, scales and tables.
    """
    values = [value for state in optimizer.state.values() for value in state.values()]
    if isinstance(optimizer, LoraFA):
        values += optimizer.derived_tensors()
    return sum(
        inner.nbytes
        for value in values
        if isinstance(value, torch.Tensor)
        for inner in inner_tensors(value)
    )
