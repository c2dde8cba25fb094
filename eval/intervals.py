"""Confidence interval and majority baseline of an accuracy."""

from collections import Counter
from collections.abc import Collection, Hashable
from math import sqrt
from statistics import NormalDist

__all__ = ["CONFIDENCE", "accuracy_in_context", "majority_share", "wilson_interval"]

CONFIDENCE = 0.95


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion at 95 % confidence.

    The formula (Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    Journal of the American Statistical Association 22, 1927) stays inside [0, 1] and is valid for
    few examples too. It assumes independent examples: if several share an image or a sentence, the
    true interval is somewhat wider.

    Args:
        correct: Number of correct answers.
        total: Number of examples.

    Raises:
        ValueError: `total` is 0, or `correct` is not in [0, `total`].
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} of {total} is not a proportion")
    share = correct / total
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = share + z * z / (2 * total)
    reach = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # Rounding must not move a bound past the proportion, or out of [0, 1], if it is 0 or 1.
    low, high = (middle - reach) / scale, (middle + reach) / scale
    return max(0.0, min(share, low)), min(1.0, max(share, high))


def accuracy_in_context(
    correct: Collection[bool], answers: Collection[Hashable], *, scale: float = 1.0
) -> dict[str, object]:
    """Return the interval of an accuracy and its majority baseline, as metrics of a task.

    Args:
        correct: Whether each example was answered correctly.
        answers: The correct answer of each example.
        scale: The maximum accuracy, 1 or 100.

    Raises:
        ValueError: There are no examples.
    """
    return {
        "accuracy_interval": [
            scale * bound for bound in wilson_interval(sum(correct), len(correct))
        ],
        "majority_accuracy": scale * majority_share(answers),
    }


def majority_share(answers: Collection[Hashable]) -> float:
    """Return the share of the most frequent correct answer, the accuracy of always giving it.

    Raises:
        ValueError: There are no answers.
    """
    if not answers:
        raise ValueError("there are no answers")
    return max(Counter(answers).values()) / len(answers)
