"""Checks of what models are given from Python; recipes check the same when they are validated."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from vl_lst.errors import ModelError

__all__ = ["require_choice", "require_number", "require_tensor", "require_whole"]


def require_whole(name: str, value: Any, *, minimum: int) -> None:
    """Refuse what is not a whole number of at least `minimum`.

    Raises:
        ModelError: It is something else.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < minimum:
        raise _wrong(name, value, f"a whole number of at least {minimum}")


def require_number(
    name: str, value: Any, *, above: float | None = None, minimum: float = 0.0, below: float
) -> None:
    """Refuse what is not a number in a range.

    Args:
        name: What it is, for the message.
        value: What was given.
        above: Exclusive lower bound, instead of `minimum`.
        minimum: Inclusive lower bound.
        below: Exclusive upper bound.

    Raises:
        ModelError: It is something else.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if above is None:
        in_range, bounds = is_number and minimum <= value < below, f"at least {minimum:g}"
    else:
        in_range, bounds = is_number and above < value < below, f"more than {above:g}"
    if not in_range:
        raise _wrong(name, value, f"a number of {bounds} and less than {below:g}")


def require_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse what is none of a few words.

    Raises:
        ModelError: It is something else.
    """
    if value not in choices:
        raise _wrong(name, value, f"one of {', '.join(map(repr, choices))}")


def require_tensor(name: str, value: Any, *, dimensions: int, is_floating: bool) -> None:
    """Refuse what is not a tensor of so many dimensions.

    Args:
        name: What it is, for the message.
        value: What was given.
        dimensions: How many there must be.
        is_floating: Whether its numbers are floating-point numbers or whole ones.

    Raises:
        ModelError: It is something else.
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
