"""Parts of a model that memory is reported for."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import nn

__all__ = ["HasMemoryParts"]


@runtime_checkable
class HasMemoryParts(Protocol):
    """Module that names the parts for which the memory of the backward pass is reported.

    Any module of a model may have this method; no base class is needed.
    """

    def memory_parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """Return modules by the name of their part.

        What a module saves for the backward pass in its `forward` belongs to the part of the
        innermost module. Several modules of a model may name the same part.
        """
