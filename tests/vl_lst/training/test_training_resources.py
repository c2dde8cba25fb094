"""Memory that is available, and the peak of training steps on CUDA.

A stand-in plays the allocator.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vl_lst.training import resources
from vl_lst.training.resources import WARM_UP_STEPS, PeakMemory, memory_available

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


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"meminfo": "MemTotal: 900 kB\nMemAvailable: 500 kB\n"}, 512_000),
        (
            {
                "meminfo": "MemAvailable: 500 kB\n",
                "memory.max": "max\n",
                "memory.current": "7\n",
            },
            512_000,
        ),
        (
            {
                "meminfo": "MemAvailable: 500 kB\n",
                "memory.max": "100000\n",
                "memory.current": "70000\n",
                "memory.stat": "anon 5\ninactive_file 20000\n",
            },
            50_000,
        ),
        (
            {
                "meminfo": "MemAvailable: 500 kB\n",
                "memory/memory.limit_in_bytes": "1000\n",
                "memory/memory.usage_in_bytes": "3000\n",
            },
            0,
        ),
    ],
    ids=["unknown", "system", "no-limit", "version-2", "version-1"],
)
def test_memory_available_is_what_the_system_and_a_container_leave(
    files: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(resources, "MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(resources, "CONTROL_GROUP", tmp_path)
    assert memory_available(torch.device("cpu")) == expected
