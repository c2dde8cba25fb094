"""What a device computes natively, and the precision of float32 products on CUDA."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vl_lst import devices
from vl_lst.devices import autocast, float32_products, inference_autocast, native_bf16

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


class CountCasts(TorchDispatchMode):
    """Count of casts of tensors with a shape."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self._shape = shape
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += function._overloadpacket._qualified_op_name == "aten::_to_copy" and (
            args[0].shape == self._shape
        )
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("is_frozen", [True, False])
def test_inference_casts_each_weight_once_and_changes_nothing_else(is_frozen: bool) -> None:
    layer = torch.nn.Linear(5, 3).requires_grad_(not is_frozen)
    states = torch.randn(2, 5)
    with torch.no_grad(), autocast("bf16", CPU):
        expected = layer(states)
    with CountCasts(layer.weight.shape) as casts:
        with inference_autocast(layer, "bf16", CPU):
            for _ in range(3):
                with inference_autocast(layer, "bf16", CPU):  # as for one batch of many
                    found = layer(states)
    assert casts.count == 1
    assert torch.equal(found, expected)
    assert found.dtype == torch.bfloat16
    assert not found.requires_grad
    assert layer.weight.requires_grad is not is_frozen
    with inference_autocast(layer, "fp32", CPU):
        assert layer(states).dtype == torch.float32
        assert layer.weight.requires_grad is not is_frozen
