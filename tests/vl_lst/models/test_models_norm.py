"""Norm of the side network: torch's own numbers, gradients, saved bytes."""

import pytest
import torch
import torch.nn.functional as F

from vl_lst.models.norm import RootMeanSquareNorm, divide_by_root_mean_square
from vl_lst.training.saved_bytes import TOTAL, bytes_saved_for_backward


def norm(width: int, dtype: torch.dtype) -> RootMeanSquareNorm:
    made = RootMeanSquareNorm(width, eps=1e-6, dtype=dtype)
    torch.nn.init.uniform_(made.weight, 0.5, 1.5)
    return made


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
def test_results_are_those_of_torch(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    states, made = 30 * torch.randn(2, 5, 16, dtype=dtype), norm(16, torch.float32).to(dtype)
    expected = F.rms_norm(states, (16,), made.weight, 1e-6)
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(made(states), expected, **close)
    plain = F.rms_norm(states, (16,), eps=1e-6)
    torch.testing.assert_close(divide_by_root_mean_square(states, 1e-6), plain, **close)


def test_gradients_are_exact() -> None:
    torch.manual_seed(0)
    made = norm(6, torch.float64)
    states = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)

    def run(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(made, {"weight": weight}, (states,))

    assert torch.autograd.gradcheck(run, (states, made.weight))
    assert torch.autograd.gradcheck(lambda each: divide_by_root_mean_square(each, 1e-6), (states,))


def test_it_saves_its_input_and_one_number_per_state() -> None:
    made = norm(16, torch.float32)
    states = torch.randn(10, 16, requires_grad=True)
    saved = bytes_saved_for_backward(made, lambda: made(states).sum())[TOTAL]
    assert saved == states.nbytes + 10 * 4
