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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.errors import InputError, PredictionError
from eval.submissions import first_five, require_predictions, require_same_ids
from eval.text import counted, unknown_name

if TYPE_CHECKING:
    from eval._correlations import Numbers

__all__ = ["average_without_each", "glue_metrics", "glue_tasks", "metric_names", "read_number"]

POSITIVE = "1"
BINARY = ("0", "1")
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
        InputError: There is no such task, the metric is not defined for these targets, or one is
            not a string.
        PredictionError: The IDs or the numbers of predictions and targets differ, or a prediction
            is not a string.
    """
    names = metric_names(task)
    if isinstance(targets, Mapping):
        require_same_ids(targets, require_predictions(predictions))
        assert isinstance(predictions, Mapping)
        predictions = [predictions[id_] for id_ in targets]
    if isinstance(predictions, Mapping):
        raise PredictionError(
            f"the predictions of {task} have IDs, but the targets have none: expected two "
            "dictionaries, or two lists in the same order"
        )
    given, correct = _stripped_texts(task, predictions, targets)
    metrics = {name: 100 * METHODS[name](given, correct) for name in names}
    return {**metrics, "average": math.fsum(metrics.values()) / len(metrics)}


def average_without_each(
    task: str, predictions: Sequence[str], targets: Sequence[str]
) -> list[float]:
    """Return the average metric of a task in percent without each example in turn.

    Args:
        task: Name of the task.
        predictions: The predicted text of each example; at least 2, for correlations 3.
        targets: The correct text of each example, in the same order.

    Raises:
        InputError: There is no such task, the metric is not defined for these targets, or one is
            not a string.
        PredictionError: The numbers of predictions and targets differ, or a prediction is not a
            string.
    """
    names = metric_names(task)
    given, correct = _stripped_texts(task, predictions, targets)
    if len(given) < 2:
        raise InputError(
            f"found 1 example of {task}: expected at least 2, so that one can be left out"
        )
    columns = [[100 * each for each in WITHOUT_EACH[name](given, correct)] for name in names]
    return [math.fsum(metrics) / len(metrics) for metrics in zip(*columns, strict=True)]


def read_number(text: str) -> float:
    """Return the number that a prediction of STS-B stands for: -1 if Python cannot read it."""
    try:
        return float(text)
    except ValueError:
        return NOT_A_NUMBER


def _stripped_texts(
    task: str, predictions: Sequence[str], targets: Sequence[str] | Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Return predictions and targets without surrounding whitespace, after checking them."""
    given = _texts("prediction", task, predictions, PredictionError)
    correct = _texts("target", task, targets, InputError)
    if len(given) != len(correct):
        raise PredictionError(
            f"found {counted(len(given), 'prediction')} for {counted(len(correct), 'target')} of "
            f"{task}: expected one for each"
        )
    if not correct:
        raise InputError(f"there are no examples of {task} to score: expected at least one")
    if "f1" in METRICS[task]:
        _require_binary(task, correct)
    return given, correct


def _texts(kind: str, task: str, texts: Any, error: type[InputError]) -> list[str]:
    # Arrays and columns of tables are no `Sequence`, but have an order too.
    if isinstance(texts, str) or not (hasattr(texts, "__len__") and hasattr(texts, "__getitem__")):
        raise error(
            f"the {kind}s of {task} are {texts!r:.60} ({type(texts).__name__}): expected a list of "
            "strings"
        )
    items: Iterable[tuple[object, object]] = (
        texts.items() if isinstance(texts, Mapping) else enumerate(texts)
    )
    stripped = []
    for name, text in items:
        if not isinstance(text, str):
            example = "3.5" if task == "stsb" else POSITIVE
            raise error(
                f"{kind} {name!s:.60} of {task} is {text!r:.60} ({type(text).__name__}): expected "
                f"a string, such as {example!r}"
            )
        stripped.append(text.strip())
    return stripped


def _require_binary(task: str, targets: Iterable[str]) -> None:
    others = [repr(target) for target in dict.fromkeys(targets) if target not in BINARY]
    if others:
        raise InputError(
            f"found {first_five(others)} among the targets of {task}: expected '0' and '1'. "
            "Convert the words to numbers."
        )


def _accuracy(predictions: Sequence[str], targets: Sequence[str]) -> float:
    return _num_equal(predictions, targets) / len(targets)


def _accuracy_without_each(predictions: Sequence[str], targets: Sequence[str]) -> list[float]:
    correct, others = _num_equal(predictions, targets), len(targets) - 1
    return [
        (correct - (prediction == target)) / others
        for prediction, target in zip(predictions, targets, strict=True)
    ]


def _num_equal(predictions: Sequence[str], targets: Sequence[str]) -> int:
    return sum(map(str.__eq__, predictions, targets))


def _f1(predictions: Sequence[str], targets: Sequence[str]) -> float:
    return _f1_of(*_f1_counts(predictions, targets))


def _f1_without_each(predictions: Sequence[str], targets: Sequence[str]) -> list[float]:
    true_positives, errors = _f1_counts(predictions, targets)
    return [
        _f1_of(true_positives - (prediction == target == POSITIVE), errors - (prediction != target))
        for prediction, target in zip(predictions, targets, strict=True)
    ]


def _f1_counts(predictions: Sequence[str], targets: Sequence[str]) -> tuple[int, int]:
    """Return the numbers of true positives, and of false positives and negatives together."""
    pairs = Counter(zip(predictions, targets, strict=True))
    # Any wrong answer is false positive or negative, even if it is invalid.
    errors = sum(count for (prediction, target), count in pairs.items() if prediction != target)
    return pairs[POSITIVE, POSITIVE], errors


def _f1_of(true_positives: int, errors: int) -> float:
    total = 2 * true_positives + errors
    return 2 * true_positives / total if total else 0.0


def _matthews(predictions: Sequence[str], targets: Sequence[str]) -> float:
    predicted, expected = Counter(predictions), Counter(targets)
    return _r_k(
        len(targets),
        _num_equal(predictions, targets),
        _overlap(predicted, expected),
        _overlap(predicted, predicted),
        _overlap(expected, expected),
    )


def _matthews_without_each(predictions: Sequence[str], targets: Sequence[str]) -> list[float]:
    total, correct = len(targets), _num_equal(predictions, targets)
    predicted, expected = Counter(predictions), Counter(targets)
    overlap = _overlap(predicted, expected)
    squares, expected_squares = _overlap(predicted, predicted), _overlap(expected, expected)
    return [
        _r_k(
            total - 1,
            correct - (prediction == target),
            overlap - expected[prediction] - predicted[target] + (prediction == target),
            squares - 2 * predicted[prediction] + 1,
            expected_squares - 2 * expected[target] + 1,
        )
        for prediction, target in zip(predictions, targets, strict=True)
    ]


def _overlap(first: Counter[str], second: Counter[str]) -> int:
    """Return the sum over words of the products of their counts."""
    return sum(count * second[word] for word, count in first.items())


def _r_k(
    total: int, correct: int, overlap: int, predicted_squares: int, expected_squares: int
) -> float:
    """Return R_K (Gorodkin, 2004) from exact integers."""
    covariance = correct * total - overlap
    product = (total * total - predicted_squares) * (total * total - expected_squares)
    return covariance / math.sqrt(product) if product else 0.0


def _pearson(predictions: Sequence[str], targets: Sequence[str]) -> float:
    from eval._correlations import pearson

    return pearson(*_numbers(predictions, targets))


def _pearson_without_each(predictions: Sequence[str], targets: Sequence[str]) -> list[float]:
    from eval._correlations import pearson_without_each

    return list(map(float, pearson_without_each(*_numbers(predictions, targets))))


def _spearman(predictions: Sequence[str], targets: Sequence[str]) -> float:
    from eval._correlations import spearman

    return spearman(*_numbers(predictions, targets))


def _spearman_without_each(predictions: Sequence[str], targets: Sequence[str]) -> list[float]:
    from eval._correlations import spearman_without_each

    return list(map(float, spearman_without_each(*_numbers(predictions, targets))))


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


METHODS: Mapping[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
WITHOUT_EACH: Mapping[str, Callable[[Sequence[str], Sequence[str]], list[float]]] = {
    "accuracy": _accuracy_without_each,
    "f1": _f1_without_each,
    "matthews": _matthews_without_each,
    "pearson": _pearson_without_each,
    "spearman": _spearman_without_each,
}
