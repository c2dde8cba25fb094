"""Bytes that autograd saves in the forward pass for the backward pass, by part of the model."""

import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vl_lst.backbones.backbone import Backbone
from vl_lst.backbones.quantization import inner_tensors
from vl_lst.models.batch import Batch
from vl_lst.models.memory_parts import HasMemoryParts

__all__ = [
    "TOTAL",
    "UNATTRIBUTED",
    "bytes_saved_for_backward",
    "model_parts",
    "saved_bytes_by_part",
]

# Keys in records and profiles, in addition to the names of the parts.
TOTAL = "total"
UNATTRIBUTED = "elsewhere"

Part = nn.Module | Sequence[nn.Module]


def saved_bytes_by_part(model: nn.Module, batch: Batch, loss_average: str) -> dict[str, int]:
    """Return the bytes that autograd saves for the backward pass of a batch, by part.

    Runs one forward pass and restores the random state afterwards.

    Args:
        model: Model of any transfer method.
        batch: Batch on the model's device.
        loss_average: Unit that the loss is averaged over, `examples` or `tokens`.

    Returns:
        Bytes by the name of the part (see `model_parts`), parts without any left out; `elsewhere`
        for the head and the loss; and the `total`.
    """
    devices = [model.device] if str(model.device).startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        saved = bytes_saved_for_backward(
            model, lambda: model(batch, loss_average), model_parts(model)
        )
    return {name: count for name, count in saved.items() if count or name == TOTAL}


def model_parts(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the modules of each part of a model that memory is reported for.

    The parts are those of modules with `memory_parts`: `visual embedding`, and for example `side
    encoder`, `side decoder` and their rungs. In methods that train through the backbone, there are
    also `backbone encoder`, `backbone decoder` and their layers, counted from 0. The head and the
    loss belong to no part.

    Args:
        model: Model of any transfer method.
    """
    parts: dict[str, list[nn.Module]] = defaultdict(list)
    for module in model.modules():
        if isinstance(module, HasMemoryParts):
            for name, modules in module.memory_parts().items():
                parts[name] += modules
        elif isinstance(module, Backbone):
            for name, (whole, blocks) in module.stacks().items():
                parts[f"backbone {name}"].append(whole)
                for layer, block in enumerate(blocks):
                    parts[f"backbone {name} layer {layer}"].append(block)
    return dict(parts)


@dataclass(slots=True, weakref_slot=True, eq=False)
class _SavedTensor:
    """A tensor that autograd has saved, and the part of the model that saved it.

    Autograd owns the only strong reference, so a weak one shows whether the tensor is still saved.
    """

    tensor: Tensor
    part: str


def bytes_saved_for_backward(
    model: nn.Module, run: Callable[[], Tensor], parts: Mapping[str, Part] | None = None
) -> dict[str, int]:
    """Run a forward pass and count the bytes that autograd saves for the backward pass.

    Each storage counts once and in full; the model's parameters and buffers do not count. Tensors
    that autograd frees before the backward pass, because nothing holds their result, do not count
    either. A storage belongs to the innermost part whose forward saved it first.

    The count depends on the device: for dropout, the CPU saves the noise as floating-point numbers
    and CUDA a mask of bytes.

    Args:
        model: Model whose parameters and buffers do not count.
        run: Function that computes the loss; called once.
        parts: Modules to report separately, by the name of their part.

    Returns:
        Bytes by part, `elsewhere` for what was saved outside all parts, and the `total`.
    """
    # Storages are identified by their objects, not by data addresses: fake tensors (see
    # `vl_lst.profiling.estimate`) have no address.
    model_storages = [
        inner.untyped_storage()
        for tensor in (*model.parameters(), *model.buffers())
        for inner in inner_tensors(tensor)
    ]
    excluded = {storage._cdata for storage in model_storages}
    packed: list[weakref.ref[_SavedTensor]] = []
    current_part: list[str] = [UNATTRIBUTED]

    def pack(tensor: Tensor) -> _SavedTensor:
        # Detached: an operation that saves its own result would own the tensor, which owns the
        # operation, and the garbage collector does not see such a cycle.
        saved = _SavedTensor(tensor.detach(), current_part[-1])
        if saved.tensor.untyped_storage()._cdata not in excluded:
            packed.append(weakref.ref(saved))
        return saved

    with ExitStack() as stack:
        for name, part in (parts or {}).items():
            for module in (part,) if isinstance(part, nn.Module) else part:
                before = module.register_forward_pre_hook(
                    lambda _module, _inputs, name=name: current_part.append(name)
                )
                after = module.register_forward_hook(
                    lambda _module, _inputs, _output: (current_part.pop(), None)[1],
                    always_call=True,
                )
                stack.callback(before.remove)
                stack.callback(after.remove)
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor)
        stack.enter_context(hooks)
        loss = run()
    held = [saved for reference in packed if (saved := reference()) is not None]
    del loss  # its graph was needed only to keep the saved tensors alive until here
    counted = dict.fromkeys([*(parts or {}), UNATTRIBUTED], 0)
    seen: set[int] = set()
    for saved in held:
        storage = saved.tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            counted[saved.part] += storage.nbytes()
    return {**counted, TOTAL: sum(counted.values())}
