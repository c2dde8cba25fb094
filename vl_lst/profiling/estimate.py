"""Models without data: built and run in seconds, whatever their size, to count their bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["without_data"]


class _NothingPadded(TorchDispatchMode):
    """Answers what a model asks of values that do not exist: all of them are true.

    T5 asks whether any token is padding, the loss which labels count; in a batch without padding
    these are none, and all.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return True
        if func is torch.ops.aten.nonzero.default:
            (tensor,) = args
            return tensor.new_empty((tensor.numel(), tensor.ndim), dtype=torch.long)
        return func(*args, **(kwargs or {}))


@contextmanager
def without_data() -> Iterator[None]:
    """Tensors made in this context have a shape, a type and storages that are told apart, no data.

    Operations choose their kernels as on the CPU, so what autograd saves is what it saves there.
    """
    with FakeTensorMode(), _NothingPadded():
        yield
