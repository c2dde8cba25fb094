"""The attribute `recompute` of modules that can run again in the backward pass to save memory."""

from typing import Protocol, runtime_checkable

from torch import nn

__all__ = ["Recomputing", "set_recompute"]


@runtime_checkable
class Recomputing(Protocol):
    """Module whose blocks save only their inputs for the backward pass if `recompute` is true.

    Any module of a model may have this attribute, which may change between two steps: losses and
    gradients are the same either way.
    """

    recompute: bool


def set_recompute(model: nn.Module, recompute: bool) -> None:
    """Let all blocks of a model that can run again in the backward pass do so, or none.

    Args:
        model: Model of any transfer method.
        recompute: Whether they do.
    """
    for module in model.modules():
        if isinstance(module, Recomputing):
            module.recompute = recompute
