"""Pseudo-values of metrics that are not means."""

import math
import statistics

import numpy as np
import pytest

from eval.glue import average_without_each, glue_metrics
from eval.statistics.jackknife import pseudo_values


def test_pseudo_values_of_a_mean_are_the_values() -> None:
    values = [1.0, 4.0, 4.0, 7.0]
    without_each = [5.0, 4.0, 4.0, 3.0]
    assert pseudo_values(statistics.fmean(values), without_each) == pytest.approx(values)


@pytest.mark.parametrize("task", ["cola", "mrpc", "rte", "stsb"])
def test_each_example_is_left_out(task: str) -> None:
    """Also with invalid predictions, and with ties."""
    given = ["0", "1", "1", " 1", "none", "0", "2.5", "1"]
    correct = ["0", "1", "0", "1", "1", "0", "1", "0"]
    expected = [
        glue_metrics(task, given[:n] + given[n + 1 :], correct[:n] + correct[n + 1 :])["average"]
        for n in range(len(given))
    ]
    assert average_without_each(task, given, correct) == pytest.approx(expected)


@pytest.mark.parametrize(("task", "number"), [("cola", 300), ("mrpc", 300), ("stsb", 120)])
def test_the_error_is_that_of_repeated_samples(task: str, number: int) -> None:
    """The jackknife's standard error, against the deviation over new samples of examples."""
    generator = np.random.default_rng(0)

    def draw() -> list[tuple[str, str]]:
        truth_N = generator.normal(size=number)
        given_N = truth_N + generator.normal(size=number)
        if task == "stsb":
            return [(f"{x:.2f}", f"{y:.1f}") for x, y in zip(given_N, truth_N, strict=True)]
        return [(str(int(x > 0)), str(int(y > 0.5))) for x, y in zip(given_N, truth_N, strict=True)]

    def error(pairs: list[tuple[str, str]]) -> float:
        values = pseudo_values(metric(pairs), average_without_each(task, *zip(*pairs, strict=True)))
        return statistics.stdev(values) / math.sqrt(number)

    def metric(pairs: list[tuple[str, str]]) -> float:
        given, correct = zip(*pairs, strict=True)
        return glue_metrics(task, given, correct)["average"]

    errors = [error(draw()) for _ in range(5)]
    deviation = statistics.stdev(metric(draw()) for _ in range(400))
    assert statistics.fmean(errors) == pytest.approx(deviation, rel=0.15)
