"""GLUE's metrics exactly as the code of the LST paper computes them (arXiv 2206.06522).

All metrics are percentages, computed from texts without surrounding whitespace:

    accuracy    equality of texts; nothing is parsed, so "01" is not "1"
    f1          of the class "1". A prediction other than "0" and "1" counts as the opposite of its
                target: a false positive if the target is "0", a false negative if it is "1"
    matthews    multi-class correlation coefficient R_K. Each invalid word is a class of its own,
                so it matters which words a model writes
    pearson     of the numbers that Python's `float` reads; any other text counts as -1, and nothing
                is clipped to the range of the targets
    spearman    of the same numbers, with average ranks for ties
    average     mean of the task's one or two metrics, which the paper reports

A coefficient that is not defined, for example because all predictions are equal, is 0.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from eval.errors import InputError, PredictionError
from eval.submissions import first_five, require_predictions, require_same_ids
from eval.text import counted, unknown_name

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    Numbers: TypeAlias = NDArray[float64]

__all__ = ["average_without_each", "glue_metrics", "glue_tasks", "metric_names", "read_number"]

POSITIVE = "1"
BINARY = ("0", "1")
# A wrong answer, whichever it is.
WRONG = ""
# The value of a prediction that is not a number.
NOT_A_NUMBER = -1.0

METRICS = {
    "ax": ("matthews",),
    "cola": ("matthews",),
    "mnli": ("accuracy",),
    "mrpc": ("f1", "accuracy"),
    "qnli": ("accuracy",),
    "qqp": ("f1", "accuracy"),
    "rte": ("accuracy",),
    "sst2": ("accuracy",),
    "stsb": ("pearson", "spearman"),
    "wnli": ("accuracy",),
}


def glue_tasks() -> list[str]:
    """Return the names of the tasks, in alphabetical order."""
    return list(METRICS)


def metric_names(task: str) -> tuple[str, ...]:
    """Return the official metrics of a task, without their average.

    Raises:
        InputError: There is no such task.
    """
    if task not in METRICS:
        raise InputError(unknown_name("GLUE task", task, METRICS))
    return METRICS[task]


def glue_metrics(
    task: str,
    predictions: Sequence[str] | Mapping[str, str],
    targets: Sequence[str] | Mapping[str, str],
) -> dict[str, float]:
    """Return the metrics of a task in percent, including their average.

    Args:
        task: Name of the task ("cola").
        predictions: {example ID: predicted text}, or the predicted texts alone.
        targets: {example ID: correct text}, or the correct texts alone, in the same order.

    Raises:
        InputError: There is no such task, or the metric is not defined for these targets.
        PredictionError: The IDs or the numbers of predictions and targets differ.
    """
    names = metric_names(task)
    if isinstance(targets, Mapping):
        require_same_ids(targets, require_predictions(predictions))
        assert isinstance(predictions, Mapping)
        predictions = [predictions[id_] for id_ in targets]
        targets = list(targets.values())
    if isinstance(predictions, Mapping):
        raise PredictionError(
            f"the predictions of {task} have IDs, but the targets have none: expected two "
            "dictionaries, or two lists in the same order"
        )
    if len(predictions) != len(targets):
        raise PredictionError(
            f"found {counted(len(predictions), 'prediction')} for "
            f"{counted(len(targets), 'target')} of {task}: expected one for each"
        )
    if len(targets) == 0:
        raise InputError(f"there are no examples of {task} to score: expected at least one")
    given = [text.strip() for text in predictions]
    correct = [text.strip() for text in targets]
    metrics = {name: 100 * METHODS[name](given, correct) for name in names}
    return {**metrics, "average": math.fsum(metrics.values()) / len(metrics)}


def average_without_each(
    task: str, predictions: Sequence[str], targets: Sequence[str]
) -> list[float]:
    """Return the average metric of a task in percent without each example in turn.

    Args:
        task: Name of the task.
        predictions: The predicted text of each example.
        targets: The correct text of each example, in the same order; for correlations, at least 3.

    Raises:
        InputError: There is no such task, or the metric is not defined for these targets.
    """
    if metric_names(task) == METRICS["stsb"]:
        return _correlations_without_each(predictions, targets)
    pairs = [
        (given.strip(), correct.strip())
        for given, correct in zip(predictions, targets, strict=True)
    ]
    if metric_names(task) != METRICS["cola"]:
        # All wrong answers count alike, so that few pairs remain.
        pairs = [(given if given == correct else WRONG, correct) for given, correct in pairs]
    position = {pair: index for index, pair in enumerate(pairs)}
    averages = {}
    for pair, left_out in position.items():
        given, correct = zip(*pairs[:left_out], *pairs[left_out + 1 :], strict=True)
        averages[pair] = glue_metrics(task, given, correct)["average"]
    return [averages[pair] for pair in pairs]


def _correlations_without_each(predictions: Sequence[str], targets: Sequence[str]) -> list[float]:
    import numpy as np

    given, correct = _numbers(predictions, targets)
    averages = []
    for index in range(len(given)):
        numbers = np.delete(given, index), np.delete(correct, index)
        averages.append(50 * (_correlation(*numbers) + _rank_correlation(*numbers)))
    return averages


def read_number(text: str) -> float:
    """Return the number that a prediction of STS-B stands for: -1 if Python cannot read it."""
    try:
        return float(text)
    except ValueError:
        return NOT_A_NUMBER


def _accuracy(predictions: Sequence[str], targets: Sequence[str]) -> float:
    return sum(map(str.__eq__, predictions, targets)) / len(targets)


def _f1(predictions: Sequence[str], targets: Sequence[str]) -> float:
    counts = Counter(zip(predictions, targets, strict=True))
    if others := {target for _, target in counts if target not in BINARY}:
        raise InputError(
            f"F1 is defined for the targets '0' and '1', but some are {first_five(others)}: "
            "convert them"
        )
    true_positives = counts[POSITIVE, POSITIVE]
    # False positives and negatives: any wrong answer is one of them, even if it is invalid.
    errors = sum(count for (prediction, target), count in counts.items() if prediction != target)
    total = 2 * true_positives + errors
    return 2 * true_positives / total if total else 0.0


def _matthews(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Return R_K (Gorodkin, 2004) from exact integers."""
    total = len(targets)
    correct = sum(map(str.__eq__, predictions, targets))
    predicted, expected = Counter(predictions), Counter(targets)
    covariance = correct * total - sum(count * expected[word] for word, count in predicted.items())
    variances = [
        total * total - sum(count * count for count in counts.values())
        for counts in (predicted, expected)
    ]
    product = variances[0] * variances[1]
    return covariance / math.sqrt(product) if product else 0.0


def _pearson(predictions: Sequence[str], targets: Sequence[str]) -> float:
    return _correlation(*_numbers(predictions, targets))


def _spearman(predictions: Sequence[str], targets: Sequence[str]) -> float:
    return _rank_correlation(*_numbers(predictions, targets))


def _rank_correlation(given: "Numbers", correct: "Numbers") -> float:
    # Ranks would hide that a number is missing.
    if any(bool((numbers != numbers).any()) for numbers in (given, correct)):
        return 0.0
    return _correlation(_ranks(given), _ranks(correct))


def _numbers(predictions: Sequence[str], targets: Sequence[str]) -> tuple["Numbers", "Numbers"]:
    import numpy as np

    if len(targets) < 2:
        raise InputError(
            "a correlation is not defined for 1 example: expected at least 2 predictions and "
            "targets"
        )
    given, correct = (
        np.fromiter(map(read_number, texts), np.float64, len(texts))
        for texts in (predictions, targets)
    )
    return given, correct


def _correlation(first: "Numbers", second: "Numbers") -> float:
    """Return Pearson's coefficient; 0 if it is not defined."""
    import numpy as np

    if any(bool((numbers == numbers[0]).all()) for numbers in (first, second)):
        return 0.0
    # Infinities and NaN make the coefficient NaN, which is reported as 0.
    with np.errstate(all="ignore"):
        units = []
        for numbers in (first, second):
            centered = numbers - numbers.mean()
            # Squares of large numbers would overflow.
            centered = centered / np.abs(centered).max()
            units.append(centered / np.sqrt(centered @ centered))
        coefficient = float(units[0] @ units[1])
    return 0.0 if math.isnan(coefficient) else max(-1.0, min(1.0, coefficient))


def _ranks(numbers: "Numbers") -> "Numbers":
    """Return the rank of each number, beginning with 1; equal numbers share their mean rank."""
    import numpy as np

    _, group, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Numbers = ((2 * ends - counts + 1) / 2)[group]
    return ranks


METHODS: Mapping[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
