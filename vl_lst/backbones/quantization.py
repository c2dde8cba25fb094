"""The frozen backbone in fewer bits, and how many bytes a model's tensors really hold.

Only linear layers inside the blocks are quantised. The embedding table and the output layer, which
are one tensor in T5 v1.0, stay in bfloat16, as do norms and position biases: they are a small
share, and the side network's loss goes through the output layer.
"""

from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from vl_lst.choices import BackbonePrecision
from vl_lst.errors import ModelError

__all__ = ["BackbonePrecision", "bytes_to_save", "inner_tensors", "model_bytes", "quantise"]

# Weights share a scale in blocks of this many (Dettmers et al. 2023, arXiv 2305.14314, section 3).
NF4_BLOCK = 64
# ... and the scales of this many blocks share one, and are themselves kept in 8 bits.
NF4_SCALES_AT_ONCE = 256


def quantise(model: nn.Module, precision: Literal["int8", "nf4"]) -> None:
    """Replace the weights of the linear layers in a T5's blocks by quantised ones, in place.

    Args:
        model: A Hugging Face `T5ForConditionalGeneration`, frozen.
        precision: `int8`: 8 bits and a scale for each output channel. `nf4`: 4 bits from a table of
            normal quantiles, a scale for each 64 weights, the scales in 8 bits (QLoRA, arXiv
            2305.14314). Both are turned back into the activations' precision where they are used.

    Raises:
        ModelError: torchao is not installed, or the shapes do not divide into blocks.
    """
    layers = _linear_layers(model)
    torchao = _torchao()
    if precision == "int8":
        chosen = set(layers)
        torchao.quantize_(
            model, torchao.Int8WeightOnlyConfig(), filter_fn=lambda module, _: module in chosen
        )
        return
    for layer in layers:
        together = _scales_together(layer.weight)
        packed = torchao.to_nf4(layer.weight.detach(), NF4_BLOCK, together)
        layer.weight = nn.Parameter(packed, requires_grad=False)


def bytes_to_save(model: nn.Module, precision: Literal["int8", "nf4"]) -> int:
    """Bytes that `quantise` would save; works on models without data.

    Args:
        model: See `quantise`; not yet quantised.
        precision: See `quantise`.

    Raises:
        ModelError: The shapes do not divide into blocks.
    """
    saved = 0
    for layer in _linear_layers(model):
        weight = layer.weight
        count, size = weight.numel(), weight.element_size()
        if precision == "int8":
            # Codes; for each output channel a scale in float32 and a zero point.
            quantised = count + weight.shape[0] * (4 + 1)
        else:
            scales = count // NF4_BLOCK
            # Two codes a byte; scales in 8 bits, their scales; their mean and the table of codes.
            quantised = count // 2 + scales + size * (scales // _scales_together(weight) + 1 + 16)
        saved += weight.nbytes - quantised
    return saved


def _linear_layers(model: nn.Module) -> list[nn.Linear]:
    output_layer: Any = model.get_output_embeddings()  # type: ignore[operator]
    return [m for m in model.modules() if isinstance(m, nn.Linear) and m is not output_layer]


def _scales_together(weight: Tensor) -> int:
    """Blocks of a weight whose scales share one: as many as divide them all."""
    blocks, rest = divmod(weight.numel(), NF4_BLOCK)
    if rest:
        raise ModelError(
            f"cannot hold a weight of {tuple(weight.shape)} in nf4: expected a multiple of "
            f"{NF4_BLOCK} numbers; take int8"
        )
    return next(n for n in range(min(blocks, NF4_SCALES_AT_ONCE), 0, -1) if not blocks % n)


def inner_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors that hold a parameter's data: itself, or codes and scales if quantised."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from inner_tensors(getattr(tensor, name))


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers; of a quantised one, codes and scales.

    Tensors that share a storage take it once; of a larger storage, only what they take counts.
    """
    views: dict[int, set[tuple[int, int]]] = {}
    sizes: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        for inner in inner_tensors(tensor):
            storage = inner.untyped_storage()
            # The storage object: tensors without data have no address to tell them apart.
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
            f"({error}); run `pip install torchao`, or take bf16"
        ) from error
    return torchao.quantization
