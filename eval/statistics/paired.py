"""Paired tests between scores on the same examples.

The differences of the examples leave out what is hard for both (Miller, "Adding Error Bars to
Evals", arXiv 2411.00640). Their mean is tested like a score, with errors clustered by
image; see `eval.statistics.estimates`.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from eval.statistics.estimates import Estimate, Variance, variance_of
from eval.statistics.student import two_sided_probability, two_sided_quantile

__all__ = ["LEVEL", "POWER", "Difference", "Verdict", "compare", "verdict"]

# Error that all tests of a table have together. Not the usual 5 %, which promises no more than that
# on average: of 200 tables without any difference, half have more than ten that claim one. At 2 %,
# hardly any series has, also where few clusters of unequal sizes make a test too sure.
LEVEL = 0.02
# Power for which the required number of examples is stated.
POWER = 0.8
# Contributions that differ by less, in percent, are sums of the same numbers in another order.
MAX_ROUNDING = 1e-9

Verdict = Literal["better", "worse", "not told apart"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired test between two scores on the same examples.

    Args:
        difference: The first score minus the second, in percent.
        low: Lower bound of the difference's interval, at the confidence of the test (98 %).
        high: Upper bound.
        probability: Two-sided p-value of no difference.
        examples: Number of examples.
        has_seeds: Whether the variance between seeds is included, for which both scores need at
            least two. Otherwise the test compares the trained models, not the methods.
        examples_needed: Number of examples, in clusters of the same sizes, with which a single
            test at 2 % would find a true difference of this size with a power of 80 %; `None` if
            no number suffices, because the scores are equal or vary too much between seeds.
    """

    difference: float
    low: float
    high: float
    probability: float
    examples: int
    has_seeds: bool
    examples_needed: int | None


def compare(first: Estimate, second: Estimate) -> Difference | None:
    """Test whether two scores differ.

    Returns:
        The test; `None` if the examples are not the same.
    """
    if first.digest != second.digest:
        return None
    difference = first.score - second.score
    has_seeds = min(first.seeds, second.seeds) > 1
    variance = variance_of(
        first.deviations_C - second.deviations_C, [first, second] if has_seeds else []
    )
    reach = two_sided_quantile(1 - LEVEL, variance.degrees) * math.sqrt(variance.total)
    differing = np.abs(first.contributions_C - second.contributions_C) > MAX_ROUNDING
    return Difference(
        difference=difference,
        low=difference - reach,
        high=difference + reach,
        probability=_probability(difference, variance, int(differing.sum())),
        examples=first.examples,
        has_seeds=has_seeds,
        examples_needed=_examples_needed(difference, variance, first.examples),
    )


def verdict(difference: float, probability: float) -> Verdict:
    """Return what a test says about the first of two scores.

    Args:
        difference: The first score minus the second.
        probability: p-value, adjusted if there are several tests.
    """
    if probability > LEVEL or difference == 0:
        return "not told apart"
    return "better" if difference > 0 else "worse"


def _probability(difference: float, variance: Variance, num_differing: int) -> float:
    """Return the p-value.

    If k clusters differ and neither score is better, each is as likely to favour the one as the
    other, so that all favour the same with a probability of 2^(1-k) (Fisher's randomization test).
    No evidence is stronger, but the estimated variance of few clusters can be too small, or 0.
    """
    if num_differing == 0 or difference == 0:
        return 1.0
    least = 2.0 ** (1 - num_differing)
    if variance.total == 0:
        return least
    t = difference / math.sqrt(variance.total)
    return max(least, two_sided_probability(t, variance.degrees))


def _examples_needed(difference: float, variance: Variance, examples: int) -> int | None:
    """Return the required number of examples (Miller)."""
    normal = NormalDist()
    factor = normal.inv_cdf(1 - LEVEL / 2) + normal.inv_cdf(POWER)
    allowed = (difference / factor) ** 2 - variance.seeds
    if difference == 0 or allowed <= 0:
        return None
    return math.ceil(examples * variance.examples / allowed)
