"""Peak memory on CUDA covers training steps only; a stand-in plays the allocator."""

from collections.abc import Callable

import pytest
import torch

from vl_lst.training.resources import WARM_UP_STEPS, PeakMemory

CUDA = torch.device("cuda")


class Allocator:
    """Stand-in for CUDA's allocator, which caches freed memory until it is emptied."""

    def __init__(self) -> None:
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0

    def allocate(self, count: int) -> None:
        self.allocated += count
        self.reserved = max(self.reserved, self.allocated)
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        self.peak_reserved = max(self.peak_reserved, self.reserved)

    def free(self, count: int) -> None:
        self.allocated -= count

    def empty_cache(self) -> None:
        self.reserved = self.allocated

    def reset(self, _device: torch.device) -> None:
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    made = Allocator()
    stand_ins: dict[str, Callable[..., object]] = {
        "empty_cache": made.empty_cache,
        "reset_peak_memory_stats": made.reset,
        "max_memory_allocated": lambda _device: made.peak_allocated,
        "max_memory_reserved": lambda _device: made.peak_reserved,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return made


def train(allocator: Allocator, model: int, activations: int, steps: int = 4) -> PeakMemory:
    allocator.allocate(model)
    peak = PeakMemory(CUDA)
    for _ in range(WARM_UP_STEPS + steps):
        allocator.allocate(activations)
        allocator.free(activations)
        peak.step()
    allocator.free(model)
    return peak


def test_memory_cached_by_an_earlier_model_does_not_count_as_reserved(allocator: Allocator) -> None:
    first = train(allocator, model=1000, activations=5000)
    second = train(allocator, model=100, activations=10)
    assert (first.allocated, first.reserved) == (6000, 6000)
    assert (second.allocated, second.reserved) == (110, 110)


def test_memory_of_an_evaluation_does_not_count_as_reserved(allocator: Allocator) -> None:
    peak = train(allocator, model=100, activations=10)
    allocator.allocate(9000)
    allocator.free(9000)
    peak.skip()
    allocator.allocate(20)
    peak.step()
    assert (peak.allocated, peak.reserved) == (110, 110)


def test_cuda_is_not_called_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("CUDA was called")

    for name in ("empty_cache", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, never)
    peak = PeakMemory(torch.device("cpu"))
    for _ in range(4):
        peak.step()
    peak.skip()
    assert peak.allocated is peak.reserved is None
