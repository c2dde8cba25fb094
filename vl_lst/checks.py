"""Checks of arguments given from Python; recipes are validated with pydantic instead."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from vl_lst.errors import ModelError

__all__ = ["require_choice", "require_integer", "require_number", "require_tensor"]


def require_integer(name: str, value: Any, *, minimum: int) -> None:
    """Check that a value is a whole number of at least `minimum`.

    Raises:
        ModelError: It is not.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < minimum:
        raise _wrong(name, value, f"a whole number of at least {minimum}")


def require_number(name: str, value: Any, *, minimum: float, below: float) -> None:
    """Check that a value is a number in a range.

    Args:
        name: Name of the value for the message.
        value: Value to check.
        minimum: Inclusive lower bound.
        below: Exclusive upper bound.

    Raises:
        ModelError: It is not.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and minimum <= value < below):
        raise _wrong(name, value, f"a number of at least {minimum:g} and less than {below:g}")


def require_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Check that a value is one of `choices`.

    Raises:
        ModelError: It is not.
    """
    if value not in choices:
        raise _wrong(name, value, f"one of {', '.join(map(repr, choices))}")


def require_tensor(name: str, value: Any, *, dimensions: int, is_floating: bool) -> None:
    """Check that a value is a tensor with this number of dimensions.

    Args:
        name: Name of the value for the message.
        value: Value to check.
        dimensions: Expected number of dimensions.
        is_floating: Whether to expect floating-point numbers or integers.

    Raises:
        ModelError: It is not.
    """
    kind = "floating-point" if is_floating else "whole"
    expected = f"a tensor of {kind} numbers with {dimensions} dimensions"
    if not isinstance(value, Tensor):
        raise ModelError(f"{name} is a {type(value).__name__}: expected {expected}")
    if value.ndim != dimensions or value.is_floating_point() != is_floating:
        raise ModelError(
            f"{name} is a tensor of {value.dtype} with the shape {list(value.shape)}: expected "
            f"{expected}"
        )


def _wrong(name: str, value: Any, expected: str) -> ModelError:
    return ModelError(f"{name} is {value!r:.60}: expected {expected}")
