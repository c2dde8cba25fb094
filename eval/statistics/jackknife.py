"""Per-example values of metrics that are not means of per-example scores.

The jackknife (Tukey, 1958; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter
11) recomputes a metric without each example in turn. With n examples, the pseudo-value of an
example is n times the metric less n - 1 times the metric without it. The standard error of the mean
of pseudo-values, treated like scores, estimates that of the metric, for metrics that change
smoothly with each example, such as F1 and the coefficients of Matthews, Pearson and Spearman. It
draws no random numbers.
"""

from collections.abc import Sequence

__all__ = ["pseudo_values"]


def pseudo_values(metric: float, without_each: Sequence[float]) -> list[float]:
    """Return the jackknife's pseudo-value of each example.

    Args:
        metric: Metric of all examples.
        without_each: Metric without each of the examples.
    """
    number = len(without_each)
    return [number * metric - (number - 1) * value for value in without_each]
