"""Time that includes all work of a device."""

import time

import torch

__all__ = ["synchronised_seconds"]


def synchronised_seconds(device: torch.device) -> float:
    """Return the time in seconds after all work submitted to a device; its origin is arbitrary.

    Args:
        device: Device to wait for, if it is CUDA.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
