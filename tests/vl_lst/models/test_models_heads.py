"""The head for numbers: scale, precision and loss."""

import pytest
import torch
from torch import nn

from vl_lst.errors import ModelError
from vl_lst.models.config import HeadConfig
from vl_lst.models.heads import AnswerRegressor
from vl_lst.models.losses import value_loss

WIDTH = 16


def regressor(value_range: tuple[float, float]) -> AnswerRegressor:
    torch.manual_seed(0)
    return AnswerRegressor(WIDTH, value_range)


def test_first_answers_lie_around_the_middle_of_the_range() -> None:
    values_B = regressor((0.0, 5.0))(torch.randn(500, WIDTH))
    assert values_B.shape == (500,)
    assert values_B.mean().item() == pytest.approx(2.5, abs=0.5)
    assert 0.1 < values_B.std().item() < 5


def test_neither_outputs_nor_losses_depend_on_the_scale_of_the_answers() -> None:
    """So a mixture does not favour the task with the largest numbers."""
    states_BR, targets_B = torch.randn(8, WIDTH), 5 * torch.rand(8)
    losses, gradients = [], []
    for scale in (1.0, 1000.0):
        head = regressor((0.0, 5.0 * scale))
        loss = value_loss(head(states_BR), scale * targets_B, unit=head.unit)
        loss.backward()
        losses.append(loss.item())
        gradients.append(head.layers[-1].weight.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


def test_always_answering_the_middle_of_evenly_spread_answers_has_a_loss_of_one() -> None:
    targets_B = torch.linspace(-1, 3, 10_001)
    head = regressor((-1.0, 3.0))
    loss = value_loss(torch.ones_like(targets_B), targets_B, unit=head.unit)
    assert loss.item() == pytest.approx(1.0, rel=1e-3)


def test_values_are_computed_in_float32_under_autocast() -> None:
    head, states_BR = regressor((0.0, 5.0)), torch.randn(64, WIDTH)
    expected_B = head(states_BR)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nn.functional.linear(states_BR, states_BR).dtype == torch.bfloat16
        found_B = head(states_BR)
        loss = value_loss(found_B, torch.rand(64), unit=head.unit)
    assert found_B.dtype == loss.dtype == torch.float32
    assert torch.equal(found_B, expected_B)
    assert head(states_BR.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "regress"},
        {"kind": "generate", "value_range": (0.0, 5.0)},
        {"kind": "regress", "answers": 3, "value_range": (0.0, 5.0)},
        {"kind": "regress", "value_range": (5.0, 5.0)},
        {"kind": "regress", "value_range": (0.0, float("inf"))},
    ],
)
def test_a_head_without_a_usable_range_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        HeadConfig(**fields)  # type: ignore[arg-type]
