"""What a device computes natively, and the precision of float32 products on CUDA."""

from pathlib import Path

import pytest
import torch

from vl_lst import devices
from vl_lst.devices import float32_products, native_bf16

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("text", "is_native"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 avx512f avx512_bf16 gfni\n", True),
        ("flags\t\t: fpu sse2 amx_tile amx_bf16\n", True),
        ("flags\t\t: fpu sse2 avx2 avx512f avx512_bf16x\n", False),
        ("Features\t: fp asimd\n", False),
    ],
)
def test_a_processor_is_native_by_its_instruction_sets(
    text: str, is_native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "cpuinfo")
    assert not native_bf16(CPU), "a system that lists none"
    (tmp_path / "cpuinfo").write_text(text)
    assert native_bf16(CPU) is is_native


@pytest.mark.parametrize(
    ("capability", "is_native"), [((7, 5), False), ((8, 0), True), ((12, 0), True)]
)
def test_a_cuda_device_is_native_by_its_capability(
    capability: tuple[int, int], is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert native_bf16(CUDA) is is_native


@pytest.mark.parametrize("before", ["highest", "high"])
def test_products_in_tf32_end_with_the_context_and_spare_other_devices(before: str) -> None:
    own = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(before)
        for tf32, inside in ((True, "high"), (False, "highest")):
            with float32_products(tf32=tf32, device=CUDA):
                assert torch.get_float32_matmul_precision() == inside
                assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if tf32 else "ieee")
            assert torch.get_float32_matmul_precision() == before
            with float32_products(tf32=tf32, device=CPU):
                assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(own)
