"""Student's t distribution for any positive number of degrees of freedom.

The tail probability is a regularized incomplete beta function (NIST Digital Library of Mathematical
Functions, 8.17 and 26.5), computed by its continued fraction (8.17.22).
"""

import math
from functools import lru_cache
from statistics import NormalDist

__all__ = ["two_sided_probability", "two_sided_quantile"]

# Above this, the normal distribution agrees to six decimals.
MAX_DEGREES = 1e6
MAX_TERMS = 10_000
PRECISION = 1e-15
STEP_PRECISION = 1e-12
TINY = 1e-300


def two_sided_probability(t: float, degrees: float) -> float:
    """Return the probability that a value of the distribution is at least `t` away from 0.

    Args:
        t: Value of the statistic; its sign does not matter.
        degrees: Degrees of freedom, a positive number.

    Raises:
        ValueError: `degrees` is not positive, or a number is missing (NaN).
    """
    if math.isnan(t) or not degrees > 0:
        raise ValueError(f"t = {t} with {degrees} degrees of freedom: expected numbers above 0")
    if math.isinf(t):
        return 0.0
    if degrees > MAX_DEGREES:
        return math.erfc(abs(t) / math.sqrt(2))
    square = t * t
    return _incomplete_beta(
        degrees / (degrees + square), square / (degrees + square), degrees / 2, 0.5
    )


@lru_cache(maxsize=1024)
def two_sided_quantile(confidence: float, degrees: float) -> float:
    """Return the value that the distribution stays within, on both sides, with a probability.

    Args:
        confidence: The probability, between 0 and 1.
        degrees: Degrees of freedom, a positive number.

    Raises:
        ValueError: `confidence` is not between 0 and 1, or `degrees` is not positive.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence of {confidence}: expected a number between 0 and 1")
    normal = NormalDist().inv_cdf((1 + confidence) / 2)
    if degrees > MAX_DEGREES:
        return normal
    # The quantile of the normal distribution is smaller, and the probability is convex above 0, so
    # that Newton's method rises to the quantile without passing it.
    t = normal
    while True:
        excess = two_sided_probability(t, degrees) - (1 - confidence)
        step = excess / (2 * _density(t, degrees))
        t += step
        if step < t * STEP_PRECISION:
            return t


def _density(t: float, degrees: float) -> float:
    logarithm = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    tail = (degrees + 1) / 2 * math.log1p(t * t / degrees)
    return math.exp(logarithm - tail) / math.sqrt(degrees * math.pi)


def _incomplete_beta(x: float, complement: float, a: float, b: float) -> float:
    """Return I_x(a, b), given 1 - x too, which keeps its digits if x is almost 1."""
    if x <= 0 or complement <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(complement, x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(logarithm + a * math.log(x) + b * math.log(complement)) / a
    return front * _continued_fraction(x, a, b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """Evaluate 1/(1 + d1/(1 + d2/(1 + ...))) of DLMF 8.17.22 by Lentz's algorithm."""
    numerator, denominator = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = denominator
    for m in range(1, MAX_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            denominator = 1 / _not_zero(1 + term * denominator)
            numerator = _not_zero(1 + term / numerator)
            change = numerator * denominator
            value *= change
        if abs(change - 1) < PRECISION:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY
