"""Devices: choice, name, and autocast."""

import platform
from contextlib import AbstractContextManager

import torch

from vl_lst.choices import ArithmeticPrecision, DeviceName
from vl_lst.errors import TrainingError

__all__ = ["autocast", "choose_device", "device_name"]


def choose_device(name: DeviceName) -> torch.device:
    """Return the device of a name; `auto` is CUDA if available.

    Raises:
        TrainingError: The name is `cuda`, and no CUDA device is available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            "training.device is cuda, but no CUDA device is available. Set it to auto or cpu."
        )
    return torch.device(name)


def autocast(
    precision: ArithmeticPrecision, device: torch.device
) -> AbstractContextManager[object]:
    """Return a context in which forward passes compute at `precision`; parameters keep theirs."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def device_name(device: torch.device) -> str:
    """Return the kind and name of a device, such as "cuda: NVIDIA A100"."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {platform.processor() or platform.machine()}"
