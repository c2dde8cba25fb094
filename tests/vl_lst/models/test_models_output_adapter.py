"""Adapters after sublayers, whatever these return, and in copies of a model."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from vl_lst.models.output_adapter import adapt_output


class Attention(nn.Module):
    def forward(self, states: Tensor) -> tuple[Tensor, str]:
        return states, "weights"


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.ones(1))

    def forward(self, states: Tensor) -> Tensor:
        return states + self.by


def test_the_first_part_of_a_tuple_is_adapted() -> None:
    attention = Attention()
    adapt_output(attention, Shift(), "shift")
    states, rest = attention(torch.zeros(2))
    assert states.tolist() == [1, 1]
    assert rest == "weights"
    assert list(attention.state_dict()) == ["shift.by"]


@pytest.mark.parametrize("names", [("first", "second"), ("second", "first")])
def test_adapters_of_one_sublayer_run_in_order_of_insertion(names: tuple[str, str]) -> None:
    layer, scale = nn.Identity(), nn.Linear(1, 1, bias=False)
    scale.weight.data.fill_(2)
    for name, adapter in zip(names, (Shift(), scale), strict=True):
        adapt_output(layer, adapter, name)
    assert layer(torch.zeros(1, 1)).item() == 2


def test_a_copy_runs_its_own_adapter() -> None:
    layer = nn.Identity()
    adapt_output(layer, Shift(), "shift")
    copied = deepcopy(layer)
    copied.get_parameter("shift.by").data.fill_(5)
    assert copied(torch.zeros(1)).item() == 5
    assert layer(torch.zeros(1)).item() == 1
