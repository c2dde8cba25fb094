"""Insertion of adapters, which change the output of a sublayer."""

from functools import partial
from typing import Any

from torch import nn

__all__ = ["adapt_output"]


def adapt_output(sublayer: nn.Module, adapter: nn.Module, name: str) -> None:
    """Insert an adapter after a sublayer.

    Args:
        sublayer: Module with the sublayer's output, or with a tuple that begins with it.
        adapter: Module that takes this output and returns the new one, of the same shape.
        name: Name of the adapter in the sublayer, and so in checkpoints.
    """
    sublayer.add_module(name, adapter)
    # By name: in a copy of the model, the hook has to find the copy of the adapter.
    sublayer.register_forward_hook(partial(_adapt, name))


def _adapt(name: str, sublayer: nn.Module, _inputs: Any, output: Any) -> Any:
    adapter = sublayer.get_submodule(name)
    if isinstance(output, tuple):  # an attention returns its states first
        return adapter(output[0]), *output[1:]
    return adapter(output)
