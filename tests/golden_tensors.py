"""Comparison with tensors that original code has written to `golden/`."""

from collections.abc import Mapping

from torch import Tensor

__all__ = ["assert_near", "without_prefix"]


def assert_near(
    found: Tensor | None, expected: Tensor, relative: float, name: str | None = None
) -> None:
    """Compare a tensor with a golden one, relative to its norm."""
    assert found is not None, name
    assert found.shape == expected.shape, name
    assert (found - expected).norm() <= relative * expected.norm(), name


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose name has a prefix, by the rest of their name."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
