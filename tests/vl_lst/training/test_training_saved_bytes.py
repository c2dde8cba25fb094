"""Saved bytes count each storage once, without parameters, by part."""

import gc
import weakref
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from vl_lst.profiling.measure import ComparedMethod, ProfileSettings, profile_methods
from vl_lst.profiling.workload import Workload
from vl_lst.training.saved_bytes import bytes_saved_for_backward, model_parts

# Of the reference implementation at the shapes of a default `Workload` of 16 examples.
REFERENCE_BYTES = 330.6 * 2**20


def test_a_storage_counts_once_and_parameters_do_not() -> None:
    layer = nn.Linear(4, 4, bias=False)
    states = torch.randn(3, 4)

    def run() -> torch.Tensor:
        return (layer(states) + layer(states)).sum()

    assert bytes_saved_for_backward(layer, run)["total"] == states.numel() * 4


def test_bytes_belong_to_the_innermost_part() -> None:
    inner, outer = nn.Linear(4, 4), nn.Linear(4, 4)
    model = nn.Sequential(outer, nn.Sequential(inner))
    states = torch.randn(2, 4, requires_grad=True)
    saved = bytes_saved_for_backward(
        model, lambda: model(states).sum(), {"whole": model, "inner": inner}
    )
    assert saved == {"whole": 32, "inner": 32, "elsewhere": 0, "total": 64}


def test_any_module_may_name_the_parts_that_are_reported() -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rung, self.block = nn.Linear(4, 4), nn.Linear(4, 4)

        def memory_parts(self) -> Mapping[str, Sequence[nn.Module]]:
            return {"stack": [self], "rungs": [self.rung]}

        def forward(self, states: Tensor) -> Tensor:
            block: Tensor = self.block(self.rung(states).relu())
            return block

    model = nn.Sequential(Stack(), Stack(), nn.Linear(4, 4))
    assert model_parts(model) == {"stack": [*model[:2]], "rungs": [each.rung for each in model[:2]]}
    states = torch.randn(2, 4)
    saved = bytes_saved_for_backward(model, lambda: model(states).sum(), model_parts(model))
    # The input of each linear layer; the second stack's rung reads what the first has put out.
    assert saved == {"stack": 64, "rungs": 64, "elsewhere": 32, "total": 160}


def test_hooks_are_removed_when_the_run_fails() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(RuntimeError):
        bytes_saved_for_backward(layer, lambda: layer(torch.randn(1, 3)), {"layer": layer})
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_the_ladder_needs_less_than_half_of_the_reference_at_t5_base_size() -> None:
    settings = ProfileSettings(
        backbone="t5-base", vocabulary=32_200, workload=Workload(batch_size=16), estimate=True
    )
    (profile,) = profile_methods([ComparedMethod("lst", {"reduction": 4})], settings)
    assert not any(part.startswith("backbone") for part in profile.saved_bytes)
    assert profile.saved_bytes["total"] <= 0.5 * REFERENCE_BYTES
    assert profile.trainable == 17_967_384


def test_tensors_saved_for_a_discarded_result_do_not_count() -> None:
    """Such as the norms of DoRA's weights, which peft detaches."""
    layer = nn.Linear(4, 4)
    inputs = torch.randn(2, 4)

    def run(*, detached: bool) -> Tensor:
        loss = layer(inputs).square().sum()
        if detached:
            loss = loss + (layer.weight.sum() * torch.randn(1000)).square().detach().sum()
        return loss

    with_it, without = (
        bytes_saved_for_backward(layer, lambda d=d: run(detached=d)) for d in (True, False)
    )
    assert with_it == without
    assert without["total"] > 0


def test_counting_frees_the_graph() -> None:
    """Otherwise the model and the activations of the batch would stay in memory."""

    def count() -> weakref.ref[Tensor]:
        layer = nn.Linear(4, 4)
        bytes_saved_for_backward(layer, lambda: layer(torch.randn(2, 4)).relu().exp().sum())
        return weakref.ref(layer.weight)

    weight = count()
    gc.collect()
    assert weight() is None
