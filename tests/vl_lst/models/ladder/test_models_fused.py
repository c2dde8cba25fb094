"""Steps of a side block with their own backward passes: results, gradients, saved bytes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vl_lst.models.ladder.fused import add_dropped, attend_with_bias, mix

HEADS = 2


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=dtype == torch.float64)


def random_mask(*shape: int) -> Tensor:
    return (torch.rand(*shape) < 0.7).double() / 0.7


@pytest.mark.parametrize("bias_shape", [(1, HEADS, 3, 5), (2, HEADS, 3, 5), (2, 1, 1, 5)])
@pytest.mark.parametrize("has_dropout", [False, True])
def test_attention_and_its_gradients_are_exact(bias_shape, has_dropout: bool) -> None:
    torch.manual_seed(0)
    queries, keys_values, bias = random(2, 3, 8), random(2, 5, 16), random(*bias_shape)
    keep = random_mask(2, HEADS, 3, 5) if has_dropout else None

    def attend(*inputs: Tensor) -> Tensor:
        return attend_with_bias(*inputs, keep, heads=HEADS)

    keys, values = (part.view(2, 5, HEADS, 4).transpose(1, 2) for part in keys_values.chunk(2, -1))
    scores = queries.view(2, 3, HEADS, 4).transpose(1, 2) @ keys.transpose(2, 3) + bias
    weights = scores.softmax(-1)
    attended = (weights if keep is None else weights * keep) @ values
    expected = attended.transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend(queries, keys_values, bias), expected)
    assert torch.autograd.gradcheck(attend, (queries, keys_values, bias))


@pytest.mark.parametrize("tokens", [2, 4])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("attenuate", [False, True])
def test_mixtures_and_their_gradients_are_exact(tokens, channels, attenuate) -> None:
    torch.manual_seed(0)
    gate, states, rung = random(channels), random(2, 4, 3), random(2, tokens, 3)

    def run(*inputs: Tensor) -> Tensor:
        return mix(*inputs, attenuate=attenuate)

    rest = states[:, tokens:] * (gate if attenuate else 1)
    expected = torch.cat((gate * states[:, :tokens] + (1 - gate) * rung, rest), 1)
    torch.testing.assert_close(run(gate, states, rung), expected)
    assert torch.autograd.gradcheck(run, (gate, states, rung))


def test_dropped_additions_and_their_gradients_are_exact() -> None:
    torch.manual_seed(0)
    states, addition, keep = random(4, 3), random(4, 3), random_mask(4, 3)

    def add(*inputs: Tensor) -> Tensor:
        return add_dropped(*inputs, keep)

    torch.testing.assert_close(add(states, addition), states + addition * keep)
    torch.testing.assert_close(add_dropped(states, addition, None), states + addition)
    assert torch.autograd.gradcheck(add, (states, addition))


def test_gradients_have_the_precision_of_their_inputs() -> None:
    """Under autocast, additions and rungs are bfloat16, gates and residual stream float32."""
    low, full = torch.bfloat16, torch.float32
    gate = torch.rand(1, requires_grad=True)
    states = random(2, 4, 8, dtype=full).requires_grad_()
    rung = random(2, 3, 8, dtype=low).requires_grad_()
    addition = random(2, 4, 8, dtype=low).requires_grad_()
    packed = random(2, 4, 24, dtype=low).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mix(gate, states, rung, attenuate=False)
        added = add_dropped(mixed, addition, torch.ones(2, 4, 8, dtype=low))
        attended = attend_with_bias(
            packed[..., :8], packed[..., 8:], torch.zeros(1, 2, 4, 4, dtype=low), None, heads=2
        )
        projected = F.linear(attended, torch.ones(8, 8))
    assert (mixed.dtype, added.dtype, attended.dtype) == (full, full, low)
    (added.sum() + projected.float().sum()).backward()
    for tensor in (gate, states, rung, addition, packed):
        assert tensor.grad is not None
        assert tensor.grad.dtype == tensor.dtype
