"""Per-example values of metrics that are not means of per-example scores.

The jackknife (Tukey, 1958; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter
11) recomputes a metric without each example in turn. With n examples, the pseudo-value of an
example is n times the metric less n - 1 times the metric without it. The standard error of the mean
of pseudo-values, treated like scores, estimates that of the metric, for metrics that change
smoothly with each example, such as F1 and the coefficients of Matthews, Pearson and Spearman. It
draws no random numbers.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

__all__ = ["pseudo_values"]

Item = TypeVar("Item", bound=Hashable)


def pseudo_values(items: Sequence[Item], metric: Callable[[Sequence[Item]], float]) -> list[float]:
    """Return the jackknife's pseudo-value of each example.

    Args:
        items: What the metric reads of each example, such as its prediction and correct answer.
            Equal items share one computation.
        metric: Computes the metric of items, in any order.

    Raises:
        ValueError: There are fewer than two examples.
    """
    number = len(items)
    if number < 2:
        raise ValueError(f"found {number} example(s): leaving one out requires at least two")
    of_all = metric(items)
    counts = Counter(items)
    position = {item: index for index, item in enumerate(items)}
    values = {}
    for item in counts:
        left_out = position[item]
        without = metric([*items[:left_out], *items[left_out + 1 :]])
        values[item] = number * of_all - (number - 1) * without
    return [values[item] for item in items]
