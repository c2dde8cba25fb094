"""Devices that a test runs on: the CPU, so that its code always runs, and CUDA if there is one."""

import pytest
import torch

__all__ = ["DEVICES", "needs_cuda"]

CUDA = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
)
DEVICES = ("cpu", pytest.param("cuda", marks=CUDA))


def needs_cuda(*values: object) -> object:
    """Return a parameter of a test that only CUDA can run."""
    return pytest.param(*values, marks=CUDA)
