"""Devices: choice, name, and precision of arithmetic."""

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from vl_lst.choices import ArithmeticPrecision, DeviceName
from vl_lst.errors import TrainingError

__all__ = [
    "autocast",
    "available_device",
    "choose_device",
    "device_name",
    "float32_products",
    "native_bf16",
]

# Lists the instruction sets of x86 processors; torch has no public function for them before 2.11.
CPU_INFO = Path("/proc/cpuinfo")
BF16_INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16"})
# The first generation of CUDA devices with bf16 and TF32 arithmetic (Ampere).
AMPERE = (8, 0)


def choose_device(name: DeviceName) -> torch.device:
    """Return the device of a name; `auto` is CUDA if available.

    Raises:
        TrainingError: The name is `cuda`, and no CUDA device is available.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            "training.device is cuda, but no CUDA device is available. Set it to auto or cpu."
        )
    return available_device(name)


def available_device(name: object) -> torch.device:
    """Return the CPU if it is named or nothing else is available, else CUDA."""
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def native_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 numbers at least as fast as float32 numbers.

    CUDA devices do from compute capability 8.0, and processors with AVX-512 BF16 or AMX BF16.
    Others compute the same by converting to float32 and back, which costs time.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= AMPERE
    return not BF16_INSTRUCTIONS.isdisjoint(_cpu_instructions())


def _cpu_instructions() -> set[str]:
    """Return the instruction sets of the first processor; an empty set where Linux lists none."""
    try:
        with CPU_INFO.open() as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return set()
    return set(flags.partition(":")[2].split())


def autocast(
    precision: ArithmeticPrecision, device: torch.device
) -> AbstractContextManager[object]:
    """Return a context in which forward passes compute at `precision`; parameters keep theirs."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def float32_products(*, tf32: bool, device: torch.device) -> Iterator[None]:
    """Let CUDA multiply float32 matrices in TF32, or not, within the context.

    TF32 reads the first 10 of the 23 bits of a float32 mantissa and adds in float32. Nothing
    changes on other devices. Afterwards, the calling program's own setting is back.

    Args:
        tf32: Whether to multiply in TF32.
        device: Device that computes.
    """
    if device.type != "cuda":
        yield
        return
    # Read here, where no error depends on how it was set; set by the function that keeps torch's
    # older and newer settings consistent, since torch.compile reads the older one.
    before = torch.backends.cuda.matmul.fp32_precision
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("high" if before == "tf32" else "highest")


def device_name(device: torch.device) -> str:
    """Return the kind and name of a device, such as "cuda: NVIDIA A100"."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {platform.processor() or platform.machine()}"
