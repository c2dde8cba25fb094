"""Pearson's and Spearman's coefficients of all pairs of numbers, and without each pair in turn.

Leaving out a pair changes a few sums and ranks, which are updated instead of computed again: one
by one, n pairs would take time that grows with the square of n.

N pairs.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy import float64, intp
from numpy.typing import NDArray

__all__ = ["pearson", "pearson_without_each", "spearman", "spearman_without_each"]

Numbers: TypeAlias = NDArray[float64]
Groups: TypeAlias = NDArray[intp]

# A pair with a larger share of a variance leaves a sum too inexact for the others.
MAX_UPDATED_SHARE = 0.5


def pearson(first_N: Numbers, second_N: Numbers) -> float:
    """Return Pearson's coefficient, in [-1, 1]; 0 if it is not defined."""
    if _is_constant(first_N) or _is_constant(second_N):
        return 0.0
    # Infinities and NaN make the coefficient NaN, which is reported as 0.
    with np.errstate(all="ignore"):
        units = []
        for numbers_N in (first_N, second_N):
            centered_N = _centered(numbers_N)
            units.append(centered_N / np.sqrt(centered_N @ centered_N))
        coefficient = float(units[0] @ units[1])
    return 0.0 if math.isnan(coefficient) else max(-1.0, min(1.0, coefficient))


def spearman(first_N: Numbers, second_N: Numbers) -> float:
    """Return Spearman's coefficient, in [-1, 1]; 0 if it is not defined."""
    # Ranks would hide that a number is missing.
    if np.isnan(first_N).any() or np.isnan(second_N).any():
        return 0.0
    return pearson(*(_ranks(*_groups(numbers_N)) for numbers_N in (first_N, second_N)))


def pearson_without_each(first_N: Numbers, second_N: Numbers) -> Numbers:
    """Return Pearson's coefficient without each pair in turn; see `pearson`.

    Args:
        first_N: At least two numbers.
        second_N: As many numbers.
    """
    unusable_N = ~(np.isfinite(first_N) & np.isfinite(second_N))
    if unusable_N.any():
        return _without_each_unusable(pearson, first_N, second_N, unusable_N)
    if _is_constant(first_N) or _is_constant(second_N):
        return np.zeros(len(first_N))
    number = len(first_N)
    growth = number / (number - 1)
    with np.errstate(all="ignore"):
        x_N, y_N = _centered(first_N), _centered(second_N)
        squares, other_squares = x_N @ x_N, y_N @ y_N
        shares_N = np.maximum(x_N**2 / squares, y_N**2 / other_squares) * growth
        coefficients_N = (x_N @ y_N - x_N * y_N * growth) / np.sqrt(
            (squares - x_N**2 * growth) * (other_squares - y_N**2 * growth)
        )
    coefficients_N = np.clip(coefficients_N, -1.0, 1.0)
    # At most four pairs, unless the sum of the numbers overflows.
    for index in np.flatnonzero(~(shares_N <= MAX_UPDATED_SHARE)):
        coefficients_N[index] = pearson(np.delete(first_N, index), np.delete(second_N, index))
    return coefficients_N


def spearman_without_each(first_N: Numbers, second_N: Numbers) -> Numbers:
    """Return Spearman's coefficient without each pair in turn; see `spearman`.

    Without a number, larger numbers have ranks lower by 1, and equal ones by 1/2. Sums are exact.

    Args:
        first_N: At least two numbers.
        second_N: As many numbers.
    """
    unusable_N = np.isnan(first_N) | np.isnan(second_N)
    if unusable_N.any():
        return _without_each_unusable(spearman, first_N, second_N, unusable_N)
    x_N, x_counts = _groups(first_N)
    y_N, y_counts = _groups(second_N)
    ranks_N, other_ranks_N = _ranks(x_N, x_counts), _ranks(y_N, y_counts)
    number = len(first_N) - 1
    products_N = (
        ranks_N @ other_ranks_N
        - ranks_N * other_ranks_N
        - _sums_above(x_N, other_ranks_N)
        - _sums_above(y_N, ranks_N)
        + _counts_above(x_N, y_N)
    )
    covariances_N = products_N - number * ((number + 1) / 2) ** 2
    variances_N = _rank_variances(x_N, x_counts) * _rank_variances(y_N, y_counts)
    is_defined_N = variances_N > 0
    coefficients_N = np.zeros(len(first_N))
    coefficients_N[is_defined_N] = covariances_N[is_defined_N] / np.sqrt(variances_N[is_defined_N])
    return np.clip(coefficients_N, -1.0, 1.0)


def _is_constant(numbers_N: Numbers) -> bool:
    return bool((numbers_N == numbers_N[0]).all())


def _centered(numbers_N: Numbers) -> Numbers:
    """Return the differences from the mean, divided by the largest of them."""
    centered_N = numbers_N - numbers_N.mean()
    # Squares of large numbers would overflow.
    scaled_N: Numbers = centered_N / np.abs(centered_N).max()
    return scaled_N


def _without_each_unusable(
    coefficient: Callable[[Numbers, Numbers], float],
    first_N: Numbers,
    second_N: Numbers,
    unusable_N: NDArray[np.bool_],
) -> Numbers:
    """Return the coefficients if pairs make it 0: only without the last of them it is not."""
    coefficients_N = np.zeros(len(first_N))
    if unusable_N.sum() == 1:
        usable_N = ~unusable_N
        coefficients_N[unusable_N] = coefficient(first_N[usable_N], second_N[usable_N])
    return coefficients_N


def _groups(numbers_N: Numbers) -> tuple[Groups, Groups]:
    """Return the index of each number among the distinct ones, and how often those occur."""
    _, groups_N, counts = np.unique(numbers_N, return_inverse=True, return_counts=True)
    return groups_N, counts


def _ranks(groups_N: Groups, counts: Groups) -> Numbers:
    """Return the rank of each number, beginning with 1; equal numbers share their mean rank."""
    ranks_N: Numbers = ((2 * np.cumsum(counts) - counts + 1) / 2)[groups_N]
    return ranks_N


def _rank_variances(groups_N: Groups, counts: Groups) -> Numbers:
    """Return the sum of squared differences of ranks from their mean, without each number."""
    number = len(groups_N) - 1
    ties = counts.astype(float64)
    cubes = ties**3 - ties
    smaller = (ties - 1) ** 3 - (ties - 1)
    without_N: Numbers = (number**3 - number - (cubes.sum() - cubes + smaller)[groups_N]) / 12
    return without_N


def _sums_above(groups_N: Groups, values_N: Numbers) -> Numbers:
    """Return the sum of the values of larger numbers, and of half of those of equal others."""
    sums = np.bincount(groups_N, weights=values_N)
    above = sums.sum() - np.cumsum(sums)
    sums_N: Numbers = above[groups_N] + (sums[groups_N] - values_N) / 2
    return sums_N


def _counts_above(x_N: Groups, y_N: Groups) -> Numbers:
    """Return how many other pairs are larger in both numbers; each equal number halves a pair."""
    order = np.argsort(-x_N, kind="stable")
    starts = np.flatnonzero(np.diff(x_N[order], prepend=-1))
    seen: list[int] = []
    counts_N = np.empty(len(x_N))
    for equal in np.split(order, starts[1:]):
        values = y_N[equal].tolist()
        before = [_count_above(seen, value) for value in values]
        for value in values:
            insort(seen, value)
        after = [_count_above(seen, value) for value in values]
        # Half of each pair with an equal first number, without the pair itself.
        counts_N[equal] = (np.array(before) + np.array(after) - 0.5) / 2
    return counts_N


def _count_above(ascending: list[int], value: int) -> float:
    return len(ascending) - (bisect_left(ascending, value) + bisect_right(ascending, value)) / 2
