"""A stack of the frozen backbone that has stopped before its last block.

This is the only place where gradients pass through a frozen block. They reach the inputs of the
last block, never its weights, and no block before it. Autograd saves what one block of the
backbone's width needs, or with recomputation the inputs of the block alone.

N rows, T tokens of the stack, S tokens of other encoder states, D width, K tapped blocks.
"""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vl_lst.backbones.family import Family
from vl_lst.backbones.gradient_checkpointing import recomputed

__all__ = ["BlockCall", "PausedStack", "call_of"]


class _Reached(Exception):  # noqa: N818
    """Raised when a stack calls the block before which it stops."""

    def __init__(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        super().__init__()
        self.inputs = inputs
        self.named = named


@dataclass(frozen=True, slots=True)
class BlockCall:
    """Call of a block that has not run.

    Args:
        block: The block.
        arguments: Its arguments by name.
    """

    block: nn.Module
    arguments: inspect.BoundArguments

    def run(self, states_NTD: Tensor, *, recompute: bool) -> Tensor:
        """Return the output of the block for other states."""
        self.arguments.arguments["hidden_states"] = states_NTD
        with recomputed([self.block]) if recompute else nullcontext():
            output = self.block(*self.arguments.args, **self.arguments.kwargs)
        states: Tensor = output[0] if isinstance(output, tuple) else output
        return states


def call_of(block: nn.Module, run: Callable[[], object]) -> BlockCall:
    """Run a stack up to a block, and return the call of that block.

    Args:
        block: Block of the stack.
        run: Function that runs the stack.
    """

    def leave(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        raise _Reached(inputs, named)

    handle = block.register_forward_pre_hook(leave, with_kwargs=True)
    try:
        run()
    except _Reached as reached:
        signature = inspect.signature(block.forward)
        return BlockCall(block, signature.bind(*reached.inputs, **reached.named))
    finally:
        handle.remove()
    raise RuntimeError("the stack has ended without calling the block: expected a call")


@dataclass(frozen=True, slots=True)
class PausedStack:
    """Encoder or decoder of which all blocks but the last have run.

    Args:
        embedding_NTD: See `EncoderTaps`.
        blocks_KNTD: Residual stream after each tapped block. It does not require grad.
        model: Model of the stack.
        family: Its family.
        last: Call of the last block.
    """

    embedding_NTD: Tensor
    blocks_KNTD: Tensor
    model: Any
    family: Family
    last: BlockCall

    def finish_encoder(self, states_NTD: Tensor, mask_NT: Tensor, *, recompute: bool) -> Tensor:
        """Run the last block of an encoder, with gradients, and return its raw output [N, T, D].

        Args:
            states_NTD: Input of the block: other states, also of other tokens and rows.
            mask_NT: False for padding.
            recompute: Whether to save only the inputs for the backward pass.
        """
        states_NTD = states_NTD.to(self.embedding_NTD.dtype)
        self.family.replace_tokens(self.model, self.last.arguments.arguments, states_NTD, mask_NT)
        return self.last.run(states_NTD, recompute=recompute)

    def finish_decoder(
        self, states_NTD: Tensor, memory_NSD: Tensor, memory_mask_NS: Tensor, *, recompute: bool
    ) -> Tensor:
        """Run the last block of a decoder, with gradients, and return its raw output [N, T, D].

        Args:
            states_NTD: Input of the block, for the tokens that the stack has read.
            memory_NSD: Encoder states to which the block attends.
            memory_mask_NS: False for padding among them.
            recompute: Whether to save only the inputs for the backward pass.
        """
        dtype = self.embedding_NTD.dtype
        self.family.replace_memory(
            self.last.arguments.arguments, memory_NSD.to(dtype), memory_mask_NS
        )
        return self.last.run(states_NTD.to(dtype), recompute=recompute)
