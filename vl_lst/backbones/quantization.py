"""Quantization of the frozen backbone, and the size of a model in bytes.

Only the linear layers of the blocks are quantized. The embedding table and the output layer, which
are often one tensor, stay in bfloat16, as do norms and position biases: they are a small share of
the weights, and the loss depends on the output layer. What a method has inserted, and what it
trains, stays as it is.

Gradients pass through quantized layers to their inputs, as in QLoRA (arXiv 2305.14314).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from vl_lst.backbones.backbone import Backbone
from vl_lst.choices import QUANTIZED, BackbonePrecision
from vl_lst.errors import ModelError

__all__ = [
    "BackbonePrecision",
    "bytes_freed_by_quantization",
    "dequantized",
    "inner_tensors",
    "model_bytes",
    "quantize",
]

# Weights per block, which share a scale (Dettmers et al. 2023, arXiv 2305.14314, section 3).
NF4_BLOCK = 64
# Maximum number of block scales that share a second scale; block scales have 8 bits.
MAX_NF4_SCALES = 256


def quantize(backbone: Backbone, precision: BackbonePrecision) -> None:
    """Quantize the linear layers in the blocks of a backbone, in place, if the precision says so.

    Args:
        backbone: Backbone, to which a method may have been attached; what trains is left out.
        precision: `int8` has 8 bits per weight and one scale per output channel. `nf4` has 4 bits
            from a table of normal quantiles and one 8-bit scale per 64 weights (QLoRA, arXiv
            2305.14314). Both are dequantized to the activations' precision when used. `fp32` and
            `bf16` change nothing.

    Raises:
        ModelError: torchao is not installed, or a weight does not divide into blocks.
    """
    if precision not in QUANTIZED:
        return
    layers = _frozen_layers(backbone)
    torchao = _torchao()
    if precision == "int8":
        chosen = set(layers)
        torchao.quantize_(
            backbone.model,
            torchao.Int8WeightOnlyConfig(),
            filter_fn=lambda module, _: module in chosen,
        )
    else:
        for layer in layers:
            weight = layer.weight.detach()
            packed = torchao.to_nf4(weight, NF4_BLOCK, _scales_per_group(weight))
            layer.weight = nn.Parameter(packed, requires_grad=False)
    for layer in layers:
        # Not a new module, since a method may have hooks on this one.
        layer.__class__ = _QuantizedLinear


def dequantized(weight: Tensor) -> Tensor:
    """Return a weight as numbers: those that its codes and scales stand for, if it is quantized."""
    if not is_traceable_wrapper_subclass(weight):
        return weight
    # The method `dequantize` of nf4 weights takes other arguments.
    nf4: Any = getattr(weight, "get_original_weight", None)
    quantized: Any = weight
    numbers: Tensor = quantized.dequantize() if nf4 is None else nf4()
    return numbers


class _QuantizedLinear(nn.Linear):
    """Linear layer with a quantized weight."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in the base class
        output: Tensor = _LinearFunction.apply(input, self.bias, self.weight)
        return output


class _LinearFunction(torch.autograd.Function):
    """Linear function that dequantizes its weight again in the backward pass.

    Otherwise, autograd would keep a dequantized copy of each int8 weight, and quantization would
    save no memory.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, bias: Tensor | None, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return F.linear(states, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (gradient,) = gradients
        of_bias = gradient.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return gradient @ dequantized(ctx.weight).to(gradient.dtype), of_bias, None


def _frozen_layers(backbone: Backbone) -> list[nn.Linear]:
    return [layer for layer in backbone.linear_layers if not layer.weight.requires_grad]


def bytes_freed_by_quantization(backbone: Backbone, precision: BackbonePrecision) -> int:
    """Return the number of bytes that `quantize` would free; works on models without data.

    Args:
        backbone: See `quantize`; not quantized yet.
        precision: See `quantize`.

    Raises:
        ModelError: A weight does not divide into blocks.
    """
    if precision not in QUANTIZED:
        return 0
    freed = 0
    for layer in _frozen_layers(backbone):
        weight = layer.weight
        count, size = weight.numel(), weight.element_size()
        if precision == "int8":
            # Codes, and per output channel a float32 scale and a zero point.
            quantized = count + weight.shape[0] * (4 + 1)
        else:
            scales = count // NF4_BLOCK
            # Two codes per byte, 8-bit scales, second scales, their mean and the table of codes.
            quantized = count // 2 + scales + size * (scales // _scales_per_group(weight) + 1 + 16)
        freed += weight.nbytes - quantized
    return freed


def _scales_per_group(weight: Tensor) -> int:
    """Return the number of block scales that share a second scale: the largest that divides all."""
    blocks, rest = divmod(weight.numel(), NF4_BLOCK)
    if rest:
        raise ModelError(
            f"cannot quantize a weight of shape {tuple(weight.shape)} to nf4: expected a multiple "
            f"of {NF4_BLOCK} numbers; use int8"
        )
    return next(n for n in range(min(blocks, MAX_NF4_SCALES), 0, -1) if not blocks % n)


def inner_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that hold a parameter's data: itself, or codes and scales if quantized."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from inner_tensors(getattr(tensor, name))


def model_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers; quantized ones count as codes and scales.

    Views of the same part of a storage count once; parts of a storage without a view do not count.
    """
    views: dict[int, set[tuple[int, int]]] = {}
    sizes: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        for inner in inner_tensors(tensor):
            storage = inner.untyped_storage()
            # Identifies the storage: tensors without data have no address.
            sizes[storage._cdata] = storage.nbytes()
            place = (int(inner.storage_offset()) * inner.element_size(), inner.nbytes)
            views.setdefault(storage._cdata, set()).add(place)
    return sum(
        min(sizes[storage], sum(count for _, count in places)) for storage, places in views.items()
    )


def _torchao() -> Any:
    try:
        import torchao.quantization
    except ImportError as error:
        raise ModelError(
            "backbone.precision int8 and nf4 need the package torchao, which cannot be imported "
            f"({error}); run `pip install torchao`, or use bf16"
        ) from error
    return torchao.quantization
