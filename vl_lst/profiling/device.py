"""Whether a CUDA device is free to be measured on."""

import os
from typing import Any

import torch

from vl_lst.errors import TrainingError

__all__ = ["refuse_shared_device"]

# What CUDA itself takes of a device for one process, before it allocates anything.
CONTEXT_BYTES = 2**30


def refuse_shared_device(device: torch.device) -> None:
    """Check that no other process uses a CUDA device; to be called before anything is on it.

    Where NVML can be asked (package `nvidia-ml-py`) it names the processes; elsewhere, and where it
    sees none because they run in another container, the memory in use tells.

    Raises:
        TrainingError: One does: times would be those of both.
    """
    if device.type != "cuda":
        return
    # First, as asking CUDA for its memory puts this process on the device; in a container it may
    # then be listed under an id that is not its own.
    others = _other_processes(device)
    free, total = torch.cuda.mem_get_info(device)
    used = total - free - torch.cuda.memory_reserved(device)
    if not others and used <= CONTEXT_BYTES:
        return
    who = f", by the processes {', '.join(map(str, others))}" if others else ""
    raise TrainingError(
        f"found {used / 2**30:.1f} of {total / 2**30:.1f} GiB of {device} "
        f"({torch.cuda.get_device_name(device)}) in use before anything was measured{who}; "
        "expected a device of one's own, since what others do there would be measured too. Wait "
        "for them to end, choose another device with CUDA_VISIBLE_DEVICES, or measure all the "
        "same with --shared-device"
    )


def _other_processes(device: torch.device) -> list[int]:
    """Ids of other processes that compute on the device, as far as they can be seen."""
    try:
        import pynvml
    except ImportError:
        return []
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
        try:
            # By its id, since CUDA_VISIBLE_DEVICES renumbers devices for CUDA but not for NVML.
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError:
        return []
    return [process.pid for process in running if process.pid != os.getpid()]
