"""Bytes that autograd keeps from the forward for the backward pass."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vl_lst.backbones.quantization import inner_tensors

__all__ = ["ELSEWHERE", "TOTAL", "bytes_saved_for_backward"]

TOTAL = "total"
ELSEWHERE = "elsewhere"
Part = nn.Module | Sequence[nn.Module]


@dataclass(slots=True, weakref_slot=True, eq=False)
class _Saved:
    """A tensor as autograd keeps it, for as long as it does, and where it was saved."""

    tensor: Tensor
    part: str


def bytes_saved_for_backward(
    model: nn.Module, run: Callable[[], Tensor], parts: Mapping[str, Part] | None = None
) -> dict[str, int]:
    """Run a forward pass and count what autograd keeps of it.

    Whole storages are counted, each once, parameters and buffers of the model excluded: this is
    the memory that must stay until the backward pass. What was saved for a result that nobody kept
    has been let go by then and does not count. Another device may keep other tensors of the same
    computation: the CPU keeps dropout's noise as numbers, CUDA as a mask of bytes. A storage
    belongs to the innermost part in whose forward it was first saved.

    Args:
        model: The model whose parameters and buffers do not count.
        run: Computes the loss; called once.
        parts: Modules to tell apart, by name; several may share one.

    Returns:
        Bytes by part, `elsewhere` for what was saved outside all of them, and the `total`.
    """
    # The storage object is compared, not the address of its data, which tensors without data (see
    # `vl_lst.profiling.estimate`) do not have.
    own = [
        inner.untyped_storage()
        for tensor in (*model.parameters(), *model.buffers())
        for inner in inner_tensors(tensor)
    ]
    owned = {storage._cdata for storage in own}
    packed: list[weakref.ref[_Saved]] = []
    running: list[str] = [ELSEWHERE]

    def pack(tensor: Tensor) -> _Saved:
        saved = _Saved(tensor, running[-1])
        if tensor.untyped_storage()._cdata not in owned:
            packed.append(weakref.ref(saved))
        return saved

    with ExitStack() as stack:
        for name, part in (parts or {}).items():
            for module in (part,) if isinstance(part, nn.Module) else part:
                before = module.register_forward_pre_hook(
                    lambda _module, _inputs, name=name: running.append(name)
                )
                after = module.register_forward_hook(
                    lambda _module, _inputs, _output: (running.pop(), None)[1], always_call=True
                )
                stack.callback(before.remove)
                stack.callback(after.remove)
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor)
        stack.enter_context(hooks)
        loss = run()
    kept = [saved for reference in packed if (saved := reference()) is not None]
    del loss  # all that belongs to it has been found
    counted = dict.fromkeys([*(parts or {}), ELSEWHERE], 0)
    seen: set[int] = set()
    for saved in kept:
        storage = saved.tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            counted[saved.part] += storage.nbytes()
    return {**counted, TOTAL: sum(counted.values())}
