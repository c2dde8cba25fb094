"""Times of a device."""

import pytest
import torch

from vl_lst.profiling.clock import synchronised_seconds


def test_work_of_cuda_has_ended_when_its_time_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    started = synchronised_seconds(torch.device("cpu"))
    assert waited == []
    assert synchronised_seconds(torch.device("cuda", 1)) >= started
    assert waited == [torch.device("cuda", 1)]
