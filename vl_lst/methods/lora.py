"""LoRA (Hu et al. 2021, arXiv 2106.09685) on the queries and values of every attention."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from peft import LoraConfig
from peft.tuners.lora.dora import DoraLinearLayer
from pydantic import Field
from torch import nn

from vl_lst.backbones.quantization import dequantized
from vl_lst.errors import ModelError
from vl_lst.methods._biases import add_biases, added_biases, biased_layers
from vl_lst.methods._joint import JointOptions, train_modules
from vl_lst.methods._peft import PeftMethod, inject, query_value_layers
from vl_lst.models.joint import JointModel

__all__ = ["METHOD", "LoraOptions", "LowRankAdaptation"]


class LoraOptions(JointOptions):
    """Options of LoRA, in which a weight W becomes `W + (alpha / r) B A`.

    A is initialised randomly and B with zeros, as published.

    Args:
        rank: r, the rank of B A.
        alpha: Scale of B A.
        train_biases: Whether biases train too, as in BitFit without final norms. The paper's code
            for language tasks trains them, and the position tables.
        train_position_tables: Whether the backbone's tables of relative position biases train.
    """

    rank: int = Field(150, ge=1, le=16_384)
    alpha: float = Field(32, gt=0, le=1e6)
    train_biases: bool = False
    train_position_tables: bool = False


class LowRankAdaptation(PeftMethod[LoraOptions]):
    """Frozen backbone with trainable low-rank updates of its q and v projections.

    Args:
        decomposed: Whether to split weights into magnitude and direction and train the magnitudes
            too (DoRA).
    """

    options = LoraOptions

    def __init__(self, *, decomposed: bool = False) -> None:
        self._decomposed = decomposed
        # In DoRA, B A also changes the norm that the magnitudes replace.
        self.has_low_rank_factors = not decomposed

    def insert(self, model: JointModel, options: LoraOptions) -> None:
        """Wrap the queries and values of every attention, and add what else trains."""
        backbone = model.backbone
        tables = list(backbone.family.position_tables(backbone.model))
        if options.train_position_tables:
            if not tables:
                raise ModelError(
                    f"train_position_tables is true, and a backbone of type {backbone.model_type} "
                    "has no tables of relative position biases: expected false"
                )
            train_modules(model, tables)
        # Before wrapping, which adds linear layers of its own.
        biased = biased_layers(model, final_norms=False)
        # DoRA would rescale the biases of the layers that it wraps.
        if options.train_biases and not self._decomposed:
            add_biases(model, biased)
        config = LoraConfig(
            r=options.rank,
            # Annotated as an integer, but peft only divides it by the rank.
            lora_alpha=options.alpha,  # type: ignore[arg-type]
            lora_dropout=options.dropout,
            use_dora=self._decomposed,
            target_modules=query_value_layers(model),
        )
        inject(model, config)
        for module in model.backbone.modules():
            if isinstance(module, DoraLinearLayer):
                module.register_forward_pre_hook(_dequantize_base_layer, with_kwargs=True)
        if options.train_biases and self._decomposed:
            add_biases(model, biased)

    def tuned(self, model: JointModel) -> Iterator[nn.Parameter]:
        """Yield the low-rank updates and the added biases."""
        yield from super().tuned(model)
        yield from added_biases(model)


def _dequantize_base_layer(
    _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give DoRA, which reads the weight of a layer, its numbers if it is quantized."""
    base = named["base_layer"]
    weight = nn.Parameter(dequantized(base.weight), requires_grad=False)
    return inputs, {**named, "base_layer": SimpleNamespace(weight=weight, bias=base.bias)}


METHOD = LowRankAdaptation()
