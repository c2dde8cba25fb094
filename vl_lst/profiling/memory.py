"""Bytes that autograd keeps from the forward for the backward pass."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from vl_lst.models.quantization import inner_tensors

__all__ = ["ELSEWHERE", "TOTAL", "bytes_saved_for_backward"]

TOTAL = "total"
ELSEWHERE = "elsewhere"
Part = nn.Module | Sequence[nn.Module]


def bytes_saved_for_backward(
    model: nn.Module, run: Callable[[], Tensor], parts: Mapping[str, Part] | None = None
) -> dict[str, int]:
    """Run a forward pass and count what autograd keeps of it.

    Whole storages are counted, each once, parameters and buffers of the model excluded: this is
    the memory that must stay until the backward pass, and it is the same on every device. A
    storage belongs to the innermost part in whose forward it was first saved.

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
    # Storages are kept alive until the end, so that no object takes the place of another.
    seen: dict[int, tuple[str, torch.UntypedStorage]] = {}
    running: list[str] = [ELSEWHERE]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in owned:
            seen.setdefault(storage._cdata, (running[-1], storage))
        return tensor

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
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved))
        run()
    counted = dict.fromkeys([*(parts or {}), ELSEWHERE], 0)
    for name, storage in seen.values():
        counted[name] += storage.nbytes()
    return {**counted, TOTAL: sum(counted.values())}
