"""Arithmetic in float32 proper."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["exact_float32"]


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute convolutions and matrix products of float32 numbers in float32 in the block.

    By default cuDNN rounds the factors of convolutions to TF32, which has 10 bits after the point
    in place of 23. The settings are those of the whole process; what they were is restored.

    torch has two interfaces to them, and refuses operations while they contradict each other, so
    both are set.
    """
    cudnn = torch.backends.cudnn
    operations = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    precisions = [operation.fp32_precision for operation in operations]
    products, convolutions = torch.get_float32_matmul_precision(), _has_tf32_convolutions()
    _set_older("highest", tf32_convolutions=False)
    for operation in operations:
        operation.fp32_precision = "ieee"
    try:
        yield
    finally:
        _set_older(products, tf32_convolutions=convolutions)
        for operation, precision in zip(operations, precisions, strict=True):
            operation.fp32_precision = precision


def _has_tf32_convolutions() -> bool:
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        # Set through the newer interface, from which it is restored.
        return False


def _set_older(products: str, *, tf32_convolutions: bool) -> None:
    with warnings.catch_warnings():
        # Some versions of torch advise against the older interface.
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = tf32_convolutions
