"""Models of fake tensors: built and run in seconds, whatever their size, to count their bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

__all__ = ["DatalessMode"]


class _AsOnCpu(TorchDispatchMode):
    """Correct the results of operations whose shape or dtype without data is another on the CPU.

    `nonzero` returns every index: in a batch without padding, every label has a loss. A layer norm
    whose weight is more precise than its input saves statistics of the weight's precision.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.nonzero.default:
            (tensor,) = args
            return tensor.new_empty((tensor.numel(), tensor.ndim), dtype=torch.long)
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.native_layer_norm.default and args[2] is not None:
            normed, *statistics = result
            return (normed, *(each.to(args[2].dtype) for each in statistics))
        return result


class DatalessMode:
    """Contexts of fake tensors, which have a shape, a dtype and their own storage, but no data.

    Models are built on the meta device and then converted to fake CPU tensors: each operation
    selects its CPU kernel, so autograd saves what it would save on the CPU.
    """

    def __init__(self) -> None:
        self._mode = FakeTensorMode()

    @contextmanager
    def building(self) -> Iterator[None]:
        """Create modules on the meta device."""
        with torch.device("meta"):
            yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """Create batches and run adopted models; no batch may have padding."""
        with self._mode, _AsOnCpu():
            yield

    def adopt(self, model: nn.Module) -> None:
        """Make a model that was built on the meta device ready to run, in place.

        Args:
            model: Model whose parameters and buffers are replaced; shared ones stay shared.
        """
        adopted: dict[int, Tensor] = {}
        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                module.register_forward_pre_hook(_drop_padding_masks, with_kwargs=True)
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


def _drop_padding_masks(
    _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Remove padding masks from the arguments of a Hugging Face model.

    The model itself drops a mask without padding, but only if it can read the mask's values.
    """
    return args, {
        name: None if name.endswith("attention_mask") else value for name, value in kwargs.items()
    }
