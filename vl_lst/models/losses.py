"""Losses over the vocabulary, over answer lists, and of numbers.

B examples, L answer tokens, N tokens, n of them at a time, V vocabulary, D width, A answers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vl_lst.backbones.backbone import IGNORED

__all__ = [
    "answer_loss",
    "average_token_losses",
    "bound_logits",
    "value_loss",
    "vocabulary_losses",
]

MAX_LOGITS_BYTES = 64 * 2**20


class _VocabularyLosses(torch.autograd.Function):
    """Cross-entropy of each token that computes the logits of a few tokens at a time.

    The output layer is frozen, so the backward pass only needs d loss / d state, one vector of
    width D per token, times the incoming gradient. The forward pass computes it and saves it
    instead of the logits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        softcap: float | None,
    ) -> Tensor:
        losses_N = states_ND.new_zeros(states_ND.shape[0], dtype=torch.float32)
        wanted = ctx.needs_input_grad[0]
        slopes_ND = torch.zeros_like(states_ND) if wanted else None
        kept_N = torch.nonzero(targets_N != IGNORED)[:, 0]
        for rows in kept_N.split(_tokens_at_once(weight_VD)):
            logits_nV = bound_logits(F.linear(states_ND[rows], weight_VD, bias_V), softcap)
            logs_nV = logits_nV.log_softmax(-1, dtype=torch.float32)
            right_n1 = targets_N[rows, None]
            losses_N[rows] = -logs_nV.gather(1, right_n1)[:, 0]
            if slopes_ND is not None:
                slope_nV = logs_nV.exp_()
                slope_nV.scatter_add_(1, right_n1, slope_nV.new_full(right_n1.shape, -1.0))
                if softcap is not None:  # derivative of the bound
                    slope_nV *= 1 - (logits_nV / softcap) ** 2
                slope_nD = slope_nV.to(weight_VD.dtype) @ weight_VD
                # Autocast multiplies in bfloat16 also where the states are in float32.
                slopes_ND[rows] = slope_nD.to(slopes_ND.dtype)
        ctx.save_for_backward(slopes_ND)
        return losses_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slopes_ND,) = ctx.saved_tensors
        return slopes_ND * gradients[0][:, None].to(slopes_ND.dtype), None, None, None, None


def bound_logits(logits: Tensor, softcap: float | None) -> Tensor:
    """Return `softcap * tanh(logits / softcap)`; the logits themselves if `softcap` is `None`."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def vocabulary_losses(
    states_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Return the cross-entropy [N] of each token for logits = states @ weight.T + bias.

    Logits are never saved. If the output layer trains, its gradient depends on the incoming
    gradient of each token, so the backward pass recomputes the logits.

    Args:
        states_ND: Scaled states.
        weight_VD: Weight of the output layer.
        targets_N: Token ids; `IGNORED` gives a loss of zero.
        bias_V: Bias of the output layer.
        softcap: See `bound_logits`.
    """
    weight_VD = weight_VD.to(states_ND.dtype)
    bias_V = None if bias_V is None else bias_V.to(states_ND.dtype)
    if not weight_VD.requires_grad and not (bias_V is not None and bias_V.requires_grad):
        losses_N: Tensor = _VocabularyLosses.apply(states_ND, weight_VD, bias_V, targets_N, softcap)
        return losses_N
    at_once = _tokens_at_once(weight_VD)
    return torch.cat(
        [
            checkpoint(
                _cross_entropy,
                states,
                weight_VD,
                bias_V,
                targets,
                softcap,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for states, targets in zip(
                states_ND.split(at_once), targets_N.split(at_once), strict=True
            )
        ]
    )


def _tokens_at_once(weight_VD: Tensor) -> int:
    return max(1, MAX_LOGITS_BYTES // (4 * weight_VD.shape[0]))


def _cross_entropy(
    states_nD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_n: Tensor,
    softcap: float | None,
) -> Tensor:
    logits_nV = bound_logits(F.linear(states_nD, weight_VD, bias_V), softcap).float()
    return F.cross_entropy(logits_nV, targets_n, ignore_index=IGNORED, reduction="none")


def average_token_losses(
    losses_BL: Tensor, targets_BL: Tensor, weights_B: Tensor, *, over: str
) -> Tensor:
    """Average token losses to a scalar.

    Args:
        losses_BL: Loss of each token.
        targets_BL: Token ids with `IGNORED`.
        weights_B: Weight of each example (VQA: the soft score of its sampled answer).
        over: `examples` averages the tokens of each example, multiplies by its weight and averages
            the batch, as VL-T5 does for answers; `tokens` averages all tokens (captions).
    """
    valid_BL = targets_BL != IGNORED
    if over == "tokens":
        return (losses_BL * valid_BL).sum() / valid_BL.sum().clamp(min=1)
    per_example_B = (losses_BL * valid_BL).sum(1) / valid_BL.sum(1).clamp(min=1)
    return (per_example_B * weights_B).mean()


def answer_loss(logits_BA: Tensor, scores_BA: Tensor) -> Tensor:
    """Return the binary cross-entropy with soft scores, summed over answers, mean over the batch.

    LXMERT's loss for VQA and GQA: answers are independent, so several may be right.
    """
    summed = F.binary_cross_entropy_with_logits(logits_BA.float(), scores_BA, reduction="sum")
    return summed / logits_BA.shape[0]


def value_loss(values_B: Tensor, targets_B: Tensor, *, unit: float) -> Tensor:
    """Return the mean squared error of numbers, measured in units of `unit`.

    Args:
        values_B: Predicted numbers.
        targets_B: Correct numbers.
        unit: Typical deviation of the numbers, so that losses of different tasks are comparable.
    """
    return F.mse_loss(values_B.float() / unit, targets_B / unit)
