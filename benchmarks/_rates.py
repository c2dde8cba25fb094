"""A search of learning rates with equal effort for every method."""

from collections.abc import Mapping

__all__ = ["best_rate", "rates_around"]

FACTORS = (1 / 3, 1.0, 3.0)


def rates_around(own: float) -> list[float]:
    """Return the learning rates to try: a third of a recipe's own, the rate itself, three times."""
    return [float(f"{own * factor:.1g}") for factor in FACTORS]


def best_rate(scores: Mapping[float, float]) -> float:
    """Return the rate with the best score; of equal ones, the smallest."""
    return max(sorted(scores), key=lambda rate: scores[rate])
