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
    """Compute convolutions and matrix products of float32 numbers in float32 in the block.

    By default cuDNN rounds the factors of convolutions to TF32, which has a mantissa of 10 bits
    instead of 23. The settings are those of the whole process; they are restored at the end.

    torch has two interfaces to them, and refuses operations while they contradict each other, so
    both are set.
    """
    # torch does not declare all of them.
    backends: Any = torch.backends
    operations = (
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.cuda.matmul,
        backends.mkldnn.matmul,
    )
    precisions = [operation.fp32_precision for operation in operations]
    before = _older_settings()
    _set_older(HIGHEST, False)
    for operation in operations:
        operation.fp32_precision = "ieee"
    try:
        yield
    finally:
        _set_older(*before)
        for operation, precision in zip(operations, precisions, strict=True):
            operation.fp32_precision = precision


def _older_settings() -> tuple[str, bool]:
    """Return the arguments of `_set_older`, defaults where the newer interface overrides them."""
    products, tf32_convolutions = HIGHEST, False
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        tf32_convolutions = bool(torch.backends.cudnn.allow_tf32)
    return products, tf32_convolutions


def _set_older(products: str, tf32_convolutions: bool) -> None:
    with warnings.catch_warnings():
        # Some versions of torch advise against the older interface.
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = tf32_convolutions
