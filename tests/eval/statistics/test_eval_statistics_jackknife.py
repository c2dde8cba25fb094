"""Pseudo-values of metrics that are not means."""

import math
import random
import statistics
import time

import numpy as np
import pytest

from eval.glue import average_without_each, glue_metrics
from eval.statistics.jackknife import pseudo_values


def test_pseudo_values_of_a_mean_are_the_values() -> None:
    values = [1.0, 4.0, 4.0, 7.0]
    without_each = [5.0, 4.0, 4.0, 3.0]
    assert pseudo_values(statistics.fmean(values), without_each) == pytest.approx(values)


WORDS = {
    "cola": ["0", "1", " 1", "none", "maybe", ""],
    "mrpc": ["0", "1", "x", ""],
    "rte": ["0", "1", "x"],
    "stsb": ["0.0", "1.5", "1.50", "4", "5.0", "-0", "0", "word"],
}
SETS = {
    "ties and invalid words": {},
    "one kind of answer, but for one": {"given": ["1"], "first": ["0"]},
    "one kind of target, but for one": {"correct": ["1"], "first": ["1", "0"]},
    "one kind of answer": {"given": ["1"]},
    "a huge number": {"first": ["1e30"]},
    "two huge numbers": {"first": ["1e30", "1", "1e17"]},
    "numbers that overflow": {"first": ["1e308", "1e308", "-1e308"]},
    "an infinity": {"first": ["inf"]},
    "two infinities": {"first": ["inf", "1", "-inf"]},
    "no number": {"first": ["nan"]},
    "two without a number": {"first": ["nan", "1", "nan"]},
    "no number and an infinity": {"first": ["nan", "inf"]},
}


@pytest.mark.parametrize("task", WORDS)
@pytest.mark.parametrize("kind", SETS)
def test_each_example_is_left_out(task: str, kind: str) -> None:
    """As if the metric were computed again."""
    changed, draw = SETS[kind], random.Random(0)
    classes = WORDS["stsb"][:5] if task == "stsb" else ["0", "1"]
    for number in (2, 3, 4, 5, 9, 40, 150):
        given = draw.choices(changed.get("given", WORDS[task]), k=number)
        given[: len(changed.get("first", []))] = changed.get("first", [])
        given = given[:number]
        correct = draw.choices(changed.get("correct", classes), k=number)
        expected = [again(task, given, correct, without=n) for n in range(number)]
        found = average_without_each(task, given, correct)
        assert found == pytest.approx(expected, rel=0, abs=1e-9)


def again(task: str, given: list[str], correct: list[str], *, without: int) -> float:
    rest = [texts[:without] + texts[without + 1 :] for texts in (given, correct)]
    # A correlation of one example is not defined.
    is_defined = len(rest[0]) > 1 or task != "stsb"
    return glue_metrics(task, *rest)["average"] if is_defined else 0.0


@pytest.mark.parametrize("task", ["cola", "stsb"])
def test_numbers_that_all_differ_are_left_out_within_seconds(task: str) -> None:
    """Computing each coefficient again would take minutes."""
    draw = random.Random(0)
    given = [f"{draw.random():.15f}" for _ in range(20_000)]
    correct = [draw.choice("01") if task == "cola" else f"{draw.random():.9f}" for _ in given]
    started = time.perf_counter()
    found = average_without_each(task, given, correct)
    assert time.perf_counter() - started < 10
    for index in (0, 9_999, 19_999):
        expected = again(task, given, correct, without=index)
        assert found[index] == pytest.approx(expected, rel=0, abs=1e-9)


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
