"""Check that no other process uses the CUDA device to measure on."""

import os
from typing import Any

import torch

from vl_lst.devices import device_name
from vl_lst.errors import TrainingError

__all__ = ["refuse_shared_device"]

# Memory that CUDA itself takes on a device for a process that has allocated nothing.
CONTEXT_BYTES = 2**30


def refuse_shared_device(device: torch.device) -> None:
    """Require that no other process uses a CUDA device; call this before allocating memory on it.

    NVML (package `nvidia-ml-py`, if installed) lists the processes. It does not see those of other
    containers; the memory in use reveals them.

    Args:
        device: Device to measure on; any but CUDA passes.

    Raises:
        TrainingError: Another process uses the device, so times would be wrong.
    """
    if device.type != "cuda":
        return
    # Before `mem_get_info`, which puts this process on the device; in a container, NVML may list it
    # under another id.
    others = _other_processes(device)
    free, total = torch.cuda.mem_get_info(device)
    used = total - free - torch.cuda.memory_reserved(device)
    if not others and used <= CONTEXT_BYTES:
        return
    users = f" by the processes {', '.join(map(str, others))}" if others else ""
    raise TrainingError(
        f"the device is in use{users}: found {used / 2**30:.1f} of {total / 2**30:.1f} GiB of "
        f"{device_name(device)} allocated, expected none, since other processes change the "
        "measured times. Wait for them to end, choose another device with CUDA_VISIBLE_DEVICES, or "
        "measure anyway with --shared-device."
    )


def _other_processes(device: torch.device) -> list[int]:
    """Return the ids of other processes that NVML sees on the device."""
    try:
        import pynvml
    except ImportError:
        return []
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
        try:
            # By UUID, since CUDA_VISIBLE_DEVICES renumbers devices for CUDA but not for NVML.
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError:
        return []
    return [process.pid for process in running if process.pid != os.getpid()]
