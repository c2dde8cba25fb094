"""Models without data: built and run in seconds, whatever their size, to count their bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

__all__ = ["WithoutData"]


class _NothingPadded(TorchDispatchMode):
    """Answers what a model asks of values that do not exist: all of them are true.

    T5 asks whether any token is padding, the loss which labels count; in a batch without padding
    these are none, and all.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return True
        if func is torch.ops.aten.nonzero.default:
            (tensor,) = args
            return tensor.new_empty((tensor.numel(), tensor.ndim), dtype=torch.long)
        return func(*args, **(kwargs or {}))


class WithoutData:
    """A place where tensors have shape, type and storages that are told apart, but no data.

    Models are built on the meta device, then made to believe that they are on the CPU: operations
    choose their kernels as there, so what autograd saves is what it would save there.
    """

    def __init__(self) -> None:
        self._mode = FakeTensorMode()

    @contextmanager
    def building(self) -> Iterator[None]:
        """Modules made in this context are on the meta device."""
        with torch.device("meta"):
            yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """Batches are made, and adopted models run, in this context."""
        # Transformers keeps a mask that masks nothing where it takes a tensor for one of a trace
        # that shall also serve other values; here it is to ask.
        asking = mock.patch.object(masking_utils, "is_tracing", return_value=False)
        with asking, self._mode, _NothingPadded():
            yield

    def adopt(self, model: nn.Module) -> None:
        """Make a model that was built on the meta device ready to run, in place.

        Args:
            model: Its parameters and buffers are replaced; shared ones stay shared.
        """
        adopted: dict[int, Tensor] = {}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    if id(parameter) not in adopted:
                        adopted[id(parameter)] = nn.Parameter(
                            self._on_cpu(parameter), requires_grad=parameter.requires_grad
                        )
                    module._parameters[name] = adopted[id(parameter)]  # type: ignore[assignment]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    if id(buffer) not in adopted:
                        adopted[id(buffer)] = self._on_cpu(buffer)
                    module._buffers[name] = adopted[id(buffer)]

    def _on_cpu(self, tensor: Tensor) -> Tensor:
        return FakeTensor(self._mode, tensor.detach().to("meta"), torch.device("cpu"))
