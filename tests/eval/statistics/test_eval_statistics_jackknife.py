"""Pseudo-values of metrics that are no means."""

import math
import statistics

import numpy as np
import pytest

from eval.glue import glue_metrics
from eval.statistics.jackknife import pseudo_values


def test_pseudo_values_of_a_mean_are_the_values() -> None:
    values = [1.0, 4.0, 4.0, 7.0]
    assert pseudo_values(values, statistics.fmean) == pytest.approx(values)


def test_one_example_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="at least two"):
        pseudo_values([1.0], statistics.fmean)


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

    def metric(pairs: list[tuple[str, str]]) -> float:
        given, correct = zip(*pairs, strict=True)
        return glue_metrics(task, given, correct)["average"]

    errors = [statistics.stdev(pseudo_values(draw(), metric)) / math.sqrt(number) for _ in range(5)]
    deviation = statistics.stdev(metric(draw()) for _ in range(400))
    assert statistics.fmean(errors) == pytest.approx(deviation, rel=0.15)
