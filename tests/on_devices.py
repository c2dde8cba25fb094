"""Devices that a test runs on: the CPU, so that its code always runs, and CUDA if there is one."""

import pytest
import torch

__all__ = ["DEVICES"]

CUDA = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
)
DEVICES = ("cpu", pytest.param("cuda", marks=CUDA))
