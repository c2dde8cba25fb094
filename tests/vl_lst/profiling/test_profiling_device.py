"""A CUDA device that other processes use is refused."""

import sys
from types import SimpleNamespace

import pytest
import torch

from vl_lst.errors import TrainingError
from vl_lst.profiling.device import refuse_shared_device

GIB = 2**30
CUDA = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand-in for the state of a device in `torch.cuda` and NVML."""
    state = SimpleNamespace(free=15 * GIB, processes=[])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (state.free, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "a device")
    monkeypatch.setattr("vl_lst.profiling.device._other_processes", lambda _device: state.processes)
    return state


def test_a_free_device_and_the_cpu_pass(gpu: SimpleNamespace) -> None:
    refuse_shared_device(CUDA)
    gpu.free = 0
    refuse_shared_device(torch.device("cpu"))


def test_memory_in_use_is_refused(gpu: SimpleNamespace) -> None:
    gpu.free = 10 * GIB
    with pytest.raises(TrainingError, match=r"found 6.0 of 16.0 GiB .*--shared-device"):
        refuse_shared_device(CUDA)


def test_processes_are_refused_however_little_memory_they_use(gpu: SimpleNamespace) -> None:
    gpu.processes = [123, 456]
    with pytest.raises(TrainingError, match="by the processes 123, 456"):
        refuse_shared_device(CUDA)


def test_without_nvml_only_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (15 * GIB, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 0)
    refuse_shared_device(CUDA)
