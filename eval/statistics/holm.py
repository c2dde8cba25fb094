"""Holm's procedure for several tests at once.

Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics
6 (1979): the probability that any true hypothesis is rejected is at most the level, however the
tests depend on each other.
"""

from collections.abc import Sequence

__all__ = ["adjust_probabilities"]


def adjust_probabilities(probabilities: Sequence[float]) -> list[float]:
    """Return the adjusted p-values, to be compared with the level of all tests together.

    Args:
        probabilities: p-value of each test.
    """
    adjusted = [0.0] * len(probabilities)
    largest = 0.0
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__)
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * probabilities[index]))
        adjusted[index] = largest
    return adjusted
