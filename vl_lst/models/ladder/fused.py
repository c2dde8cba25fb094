"""Steps of a side block with their own backward passes, which save and move little memory.

Composed of differentiable operations of torch, each of these saves several tensors of the size of
its result, and its backward pass writes several more.

B examples, Q queries, S keys, H heads, C head width, E = H*C, T tokens with a rung, R side width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["add_dropped", "attend_with_bias", "mix"]


def attend_with_bias(
    queries_BQE: Tensor,
    keys_values_BSF: Tensor,
    bias_BHQS: Tensor,
    keep_BHQS: Tensor | None,
    *,
    heads: int,
) -> Tensor:
    """Return attention [B, Q, E] with a bias that may train and with dropout of its weights.

    `dropout(softmax(q k^T + bias)) v`, which `scaled_dot_product_attention` has no fused kernel for
    on a CPU.

    Args:
        queries_BQE: Queries.
        keys_values_BSF: Keys, followed by values; F = 2 * E.
        bias_BHQS: Bias, broadcastable.
        keep_BHQS: Dropout mask; `None` without dropout.
        heads: H.
    """
    attended_BQE: Tensor = _Attention.apply(
        queries_BQE, keys_values_BSF, bias_BHQS, keep_BHQS, heads
    )
    return attended_BQE


class _Attention(torch.autograd.Function):
    """Attention that saves queries, keys, values and the weights before dropout."""

    @staticmethod
    def forward(
        ctx: Any,
        queries_BQE: Tensor,
        keys_values_BSF: Tensor,
        bias_BHQS: Tensor,
        keep_BHQS: Tensor | None,
        heads: int,
    ) -> Tensor:
        batch, length, _ = queries_BQE.shape
        # Contiguous once: each product would copy them otherwise.
        queries = _split_heads(queries_BQE, 1, heads)[0]
        keys_values = _split_heads(keys_values_BSF, 2, heads)
        scores = torch.bmm(queries, keys_values[0].mT).view(batch, heads, length, -1)
        # Autocast would compute the softmax in float32 and return it in float32.
        with torch.autocast(scores.device.type, enabled=False):
            weights = torch.softmax(scores.add_(bias_BHQS), -1)
        kept = weights if keep_BHQS is None else weights * keep_BHQS
        attended = torch.bmm(kept.flatten(0, 1), keys_values[1])
        ctx.save_for_backward(queries, keys_values, weights, keep_BHQS)
        ctx.bias_shape, ctx.heads = bias_BHQS.shape, heads
        return _merge_heads(attended[None], batch)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient_BQE: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        queries, keys_values, weights, keep_BHQS = ctx.saved_tensors
        keys, values = keys_values
        batch = gradient_BQE.shape[0]
        gradient = _split_heads(gradient_BQE, 1, ctx.heads)[0]
        kept = weights if keep_BHQS is None else weights * keep_BHQS
        slopes = torch.empty_like(keys_values)
        torch.bmm(kept.flatten(0, 1).mT, gradient, out=slopes[1])
        slope = torch.bmm(gradient, values.mT).view_as(weights)
        if keep_BHQS is not None:
            slope.mul_(keep_BHQS)
        slope = torch._softmax_backward_data(slope, weights, -1, weights.dtype)
        slope_bias = slope.sum_to_size(ctx.bias_shape) if ctx.needs_input_grad[2] else None
        slope = slope.flatten(0, 1)
        torch.bmm(slope.mT, queries, out=slopes[0])
        slope_queries = _merge_heads(torch.bmm(slope, keys)[None], batch)
        return slope_queries, _merge_heads(slopes, batch), slope_bias, None, None


def _split_heads(states_BSF: Tensor, parts: int, heads: int) -> Tensor:
    """Return [parts, B * H, S, C] of states [B, S, parts * E], contiguous."""
    batch, length, width = states_BSF.shape
    split = states_BSF.view(batch, length, parts, heads, width // (parts * heads))
    return split.permute(2, 0, 3, 1, 4).reshape(parts, batch * heads, length, -1)


def _merge_heads(states: Tensor, batch: int) -> Tensor:
    """Return the inverse of `_split_heads`, contiguous."""
    parts, rows, length, width = states.shape
    split = states.view(parts, batch, rows // batch, length, width)
    return split.permute(1, 3, 0, 2, 4).reshape(batch, length, -1)


def mix(gate: Tensor, states_BQR: Tensor, rung_BTR: Tensor, *, attenuate: bool) -> Tensor:
    """Return `gate * states + (1 - gate) * rung` [B, Q, R].

    Args:
        gate: One number, or one per channel [R].
        states_BQR: States.
        rung_BTR: Rung of the first T states.
        attenuate: Whether the other states are multiplied by the gate, or stay as they are.
    """
    mixed_BQR: Tensor = _Mix.apply(gate, states_BQR, rung_BTR, attenuate)
    return mixed_BQR


class _Mix(torch.autograd.Function):
    """Mixture that saves its inputs, and neither pads the rung nor joins parts."""

    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, states_BQR: Tensor, rung_BTR: Tensor, attenuate: bool
    ) -> Tensor:
        ctx.save_for_backward(gate, states_BQR, rung_BTR)
        ctx.attenuate = attenuate
        tokens = rung_BTR.shape[1]
        dtype = torch.promote_types(gate.dtype, torch.result_type(states_BQR, rung_BTR))
        mixed_BQR = torch.empty_like(states_BQR, dtype=dtype)
        states, mixed = states_BQR.to(dtype), mixed_BQR[:, :tokens]
        torch.lerp(rung_BTR.to(dtype), states[:, :tokens], gate.to(dtype), out=mixed)
        if attenuate:
            torch.mul(states[:, tokens:], gate, out=mixed_BQR[:, tokens:])
        else:
            mixed_BQR[:, tokens:] = states[:, tokens:]
        return mixed_BQR

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BQR: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        gate, states_BQR, rung_BTR = ctx.saved_tensors
        tokens = rung_BTR.shape[1]
        slope_BQR = gradient_BQR.clone()
        (slope_BQR if ctx.attenuate else slope_BQR[:, :tokens]).mul_(gate)
        gradient_BTR = gradient_BQR[:, :tokens]
        slope_BTR = gradient_BTR - slope_BQR[:, :tokens]
        slope_gate = ((states_BQR[:, :tokens] - rung_BTR) * gradient_BTR).sum_to_size(gate.shape)
        if ctx.attenuate:
            rest = states_BQR[:, tokens:] * gradient_BQR[:, tokens:]
            slope_gate = slope_gate + rest.sum_to_size(gate.shape)
        return (
            slope_gate.to(gate.dtype),
            slope_BQR.to(states_BQR.dtype),
            slope_BTR.to(rung_BTR.dtype),
            None,
        )


def add_dropped(states: Tensor, addition: Tensor, keep: Tensor | None) -> Tensor:
    """Return `states + addition * keep`, of which the backward pass needs the mask alone.

    The mask is not saved as a tensor of autograd: recomputation ends with the last tensor that is
    saved, so it leaves out the product that makes the addition. The pool of masks is saved anyway.

    Args:
        states: Residual stream.
        addition: Output of a sublayer.
        keep: Dropout mask; `None` without dropout.
    """
    if keep is None:
        return states + addition
    added: Tensor = _AddDropped.apply(states, addition, keep)
    return added


class _AddDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, addition: Tensor, keep: Tensor) -> Tensor:
        ctx.keep, ctx.addition_dtype = keep, addition.dtype
        return torch.addcmul(states, addition, keep)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return gradient, (gradient * ctx.keep).to(ctx.addition_dtype), None
