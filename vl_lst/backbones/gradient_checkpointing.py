"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174) of blocks and of other steps."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["checkpointed", "recomputed"]

BlockContext = Callable[[], AbstractContextManager[None]]


def checkpointed(step: Callable[..., Any], *arguments: Any, recompute: bool) -> Any:
    """Return the result of a step of a model.

    Args:
        step: Function that computes it.
        arguments: Arguments of `step`.
        recompute: Whether to save only the arguments for the backward pass, which runs `step`
            again. Without gradients, this makes no difference.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(step, *arguments, use_reentrant=False)
    return step(*arguments)


@contextmanager
def recomputed(blocks: Sequence[nn.Module], context: BlockContext = nullcontext) -> Iterator[None]:
    """Let blocks save only their inputs for the backward pass, which computes the rest again.

    Applies to forward passes within the context; outside it, and without gradients, the blocks are
    as they were. The backward pass may come later.

    Args:
        blocks: Blocks that run one after the other.
        context: Returns a context in which the backward pass runs a block again. It must set up
            whatever the forward pass had temporarily changed within the blocks.
    """
    with ExitStack() as stack:
        for block in blocks:
            # Not a hook, which cannot replace the call. Not for longer than the context, since a
            # copy of the model would run the blocks of the original.
            own = block.__dict__.get("forward")  # that of a compiled block, for example
            block.forward = _recomputing(block.forward, context)
            if own is None:
                stack.callback(delattr, block, "forward")
            else:
                stack.callback(setattr, block, "forward", own)
        yield


def _recomputing(forward: Callable[..., Any], context: BlockContext) -> Callable[..., Any]:
    def run(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)

        def call(*values: Any) -> Any:
            return forward(
                *values[: len(inputs)], **dict(zip(named, values[len(inputs) :], strict=True))
            )

        # Passed by position, named inputs too are saved by autograd, which measurements see.
        return checkpoint(
            call,
            *inputs,
            *named.values(),
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _Repeated(context)),
        )

    return run


class _Repeated(AbstractContextManager[None]):
    """Context that can be entered again, as by a second backward pass of a kept graph."""

    def __init__(self, context: BlockContext) -> None:
        self._context = context
        self._entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self._entered.append(self._context())
        self._entered[-1].__enter__()

    def __exit__(self, *details: Any) -> None:
        self._entered.pop().__exit__(*details)
