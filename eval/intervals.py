"""How much a share of right answers says: its interval, and what guessing would reach."""

from collections import Counter
from collections.abc import Collection, Hashable
from math import sqrt
from statistics import NormalDist

__all__ = ["CONFIDENCE", "accuracy_in_context", "majority_share", "wilson_interval"]

CONFIDENCE = 0.95


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Return the score interval of a share, at a confidence of 95 %.

    The formula is Wilson's ("Probable Inference, the Law of Succession, and Statistical Inference",
    Journal of the American Statistical Association 22, 1927), which stays inside [0, 1] and holds
    for few examples too. It takes them for independent: where several share an image or a sentence,
    the true interval is somewhat wider.

    Args:
        right: How many examples were answered right.
        total: How many there are.

    Raises:
        ValueError: There are none, or more right ones than there are.
    """
    if not 0 <= right <= total or total == 0:
        raise ValueError(f"{right} of {total} is no share")
    share = right / total
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = share + z * z / (2 * total)
    reach = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # Rounding must not carry a bound past the share, or out of [0, 1], where all or none is right.
    low, high = (middle - reach) / scale, (middle + reach) / scale
    return max(0.0, min(share, low)), min(1.0, max(share, high))


def accuracy_in_context(
    right: Collection[bool], answers: Collection[Hashable], *, scale: float = 1.0
) -> dict[str, object]:
    """Return what belongs beside an accuracy over few examples, as entries of a task's metrics.

    Args:
        right: Whether each example was answered right.
        answers: The right answer of each.
        scale: What the best accuracy is, 1 or 100.

    Raises:
        ValueError: There are no examples.
    """
    return {
        "accuracy_interval": [scale * bound for bound in wilson_interval(sum(right), len(right))],
        "majority_accuracy": scale * majority_share(answers),
    }


def majority_share(answers: Collection[Hashable]) -> float:
    """Return the share of the most frequent right answer: what always giving it would reach.

    Raises:
        ValueError: There are no answers.
    """
    if not answers:
        raise ValueError("there are no answers")
    return max(Counter(answers).values()) / len(answers)
