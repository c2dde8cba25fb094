"""Bytes that autograd keeps from the forward for the backward pass."""

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

__all__ = ["TOTAL", "bytes_saved_for_backward"]

TOTAL = "total"
ELSEWHERE = "elsewhere"


def bytes_saved_for_backward(
    model: nn.Module, run: Callable[[], Tensor], parts: dict[str, nn.Module] | None = None
) -> dict[str, int]:
    """Run a forward pass and count what autograd keeps of it.

    Whole storages are counted, each once, parameters and buffers of the model excluded: this is
    the memory that must stay until the backward pass, and it is the same on every device. A
    storage belongs to the innermost part in whose forward it was first saved.

    Args:
        model: The model whose parameters and buffers do not count.
        run: Computes the loss; called once.
        parts: Modules to tell apart, by name.

    Returns:
        Bytes by part, `elsewhere` for what was saved outside all of them, and the `total`.
    """
    owned = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    # Storages are kept alive until the end, so that no address is used twice.
    seen: dict[int, tuple[str, torch.UntypedStorage]] = {}
    running: list[str] = [ELSEWHERE]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            seen.setdefault(storage.data_ptr(), (running[-1], storage))
        return tensor

    with ExitStack() as stack:
        for name, part in (parts or {}).items():
            before = part.register_forward_pre_hook(
                lambda _module, _inputs, name=name: running.append(name)
            )
            after = part.register_forward_hook(
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
