"""Full float32 precision on CUDA, without TF32."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

__all__ = ["exact_float32"]

HIGHEST = "highest"


@contextmanager
def exact_float32() -> Iterator[None]:
    """Disable TF32 within the block: convolutions and matrix products run in full float32.

    By default cuDNN rounds the inputs of convolutions to TF32, which has a mantissa of 10 bits
    instead of 23. The settings apply to the whole process and are restored after the block.

    torch has two interfaces to these settings and raises errors if they contradict each other, so
    both are set.
    """
    # torch's type stubs lack some of these.
    backends: Any = torch.backends
    operations = (
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.cuda.matmul,
        backends.mkldnn.matmul,
    )
    precisions = [operation.fp32_precision for operation in operations]
    previous = _legacy_settings()
    _set_legacy(HIGHEST, False)
    for operation in operations:
        operation.fp32_precision = "ieee"
    try:
        yield
    finally:
        _set_legacy(*previous)
        for operation, precision in zip(operations, precisions, strict=True):
            operation.fp32_precision = precision


def _legacy_settings() -> tuple[str, bool]:
    """Return the arguments for `_set_legacy`; defaults if the newer interface overrides them."""
    matmul_precision, allow_tf32 = HIGHEST, False
    with suppress(RuntimeError):
        matmul_precision = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        allow_tf32 = bool(torch.backends.cudnn.allow_tf32)
    return matmul_precision, allow_tf32


def _set_legacy(matmul_precision: str, allow_tf32: bool) -> None:
    with warnings.catch_warnings():
        # Some versions of torch warn that this interface is deprecated.
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision(matmul_precision)
        torch.backends.cudnn.allow_tf32 = allow_tf32
