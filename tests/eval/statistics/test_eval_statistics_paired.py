"""Intervals and paired tests: the formulas against statsmodels, their promises by simulation."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from eval.statistics.estimates import Estimate, estimate_score, interval
from eval.statistics.paired import LEVEL, Difference, compare, verdict
from eval.statistics.samples import Sample, average_samples, sample_of
from eval.statistics.student import two_sided_quantile

VALUES = (100, 100, 0, 100, 0, 0, 100, 30, 60, 100, 0, 100)
OTHERS = (100, 30, 60, 60, 30, 60, 30, 30, 0, 70, 60, 30)
CLUSTERS = (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)
UNEQUAL_CLUSTERS = (0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3)
PAIRS = 200
# One in twenty.
MAX_FALSE_ALARMS = 10


def make_sample(values: Sequence[float], clusters: Sequence[int] | None = None) -> Sample:
    ids = [str(number) for number in range(len(values))]
    groups = range(len(values)) if clusters is None else clusters
    sample = sample_of(
        float(np.mean(values)),
        dict(zip(ids, map(float, values), strict=True)),
        dict(zip(ids, map(str, groups), strict=True)),
    )
    assert sample is not None
    return sample


def estimate_of(*samples: Sample) -> Estimate:
    estimate = estimate_score(samples)
    assert estimate is not None
    return estimate


def compare_samples(first: Sequence[Sample], second: Sequence[Sample]) -> Difference:
    difference = compare(estimate_of(*first), estimate_of(*second))
    assert difference is not None
    return difference


def test_a_clustered_error_is_that_of_statsmodels() -> None:
    """Against `OLS(values, 1).fit(cov_type="cluster", use_t=True)`, for clusters of equal sizes."""
    # A value above 100 % rules out Wilson's interval, and a shift changes no variance.
    shifted = make_sample([value + 60 for value in VALUES], CLUSTERS)
    assert interval(estimate_of(shifted)) == pytest.approx((81.79604643, 153.20395357))
    found = compare_samples([make_sample(VALUES, CLUSTERS)], [make_sample(OTHERS, CLUSTERS)])
    assert found.difference == pytest.approx(10.83333333)
    assert (found.low, found.high) == pytest.approx((-36.43897664, 58.10564330))
    assert found.probability == pytest.approx(0.47546942)


def test_clusters_of_unequal_sizes_are_left_out_in_turn() -> None:
    shifted = [value + 60 for value in VALUES]
    low, high = interval(estimate_of(make_sample(shifted, UNEQUAL_CLUSTERS)))
    without = [
        np.mean([v for v, each in zip(shifted, UNEQUAL_CLUSTERS, strict=True) if each != cluster])
        for cluster in range(4)
    ]
    variance = 3 / 4 * sum((np.mean(shifted) - each) ** 2 for each in without)
    assert high - low == pytest.approx(2 * two_sided_quantile(0.95, 3) * math.sqrt(variance))


def test_an_interval_of_independent_answers_is_that_of_wilson() -> None:
    """With the variance's n - 1 in place of n, and Student's t in place of the normal."""
    low, high = interval(estimate_of(make_sample([100] * 81 + [0] * 182)))
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    assert (low, high) == pytest.approx((25.53, 36.62), abs=0.06)


@pytest.mark.parametrize("value", [0.0, 30.0, 100.0])
def test_equal_scores_of_few_examples_are_not_certain(value: float) -> None:
    low, high = interval(estimate_of(make_sample([value] * 10)))
    assert 0 <= low <= value <= high <= 100
    assert high - low > 20


def test_few_differing_clusters_are_no_evidence() -> None:
    """Their variance may be 0, but a coin falls on one side three times in a row too."""
    found = compare_samples([make_sample([100] * 3 + [0])], [make_sample([0] * 4)])
    assert found.probability >= 0.25
    all_right, all_wrong = make_sample([100] * 3), make_sample([0] * 3)
    assert compare_samples([all_right], [all_wrong]).probability == 0.25


def test_equal_runs_are_not_told_apart() -> None:
    sample = make_sample(VALUES, CLUSTERS)
    found = compare_samples([sample], [sample])
    assert (found.difference, found.probability, found.examples_needed) == (0.0, 1.0, None)
    assert verdict(found.difference, found.probability) == "not told apart"


def test_what_cannot_be_paired_has_no_test() -> None:
    sample = make_sample(VALUES, CLUSTERS)
    other_clusters = make_sample(VALUES)
    assert compare(estimate_of(sample), estimate_of(other_clusters)) is None
    assert estimate_score([sample, other_clusters]) is None
    values = {"1": 100.0, "2": 0.0}
    assert sample_of(50.0, values, {"1": "a", "2": "b"}) is not None
    assert sample_of(50.0, values, {"1": "a", "2": "a"}) is None
    assert sample_of(50.0, values, {"1": "a"}) is None
    assert sample_of(50.0, values | {"1": math.nan}, {"1": "a", "2": "b"}) is None
    assert sample_of(50.0, {}, {}) is None


def test_an_image_is_one_cluster_over_tasks() -> None:
    """Both tasks ask about the same images, so their errors add up instead of averaging out."""
    values = [100, 0, 100, 100, 0, 0, 100, 0]
    task = make_sample(values)
    average = average_samples([task, task])
    assert average.clusters == task.clusters
    assert interval(estimate_of(average)) == pytest.approx(interval(estimate_of(task)))
    other = replace(task, clusters=tuple(f"other {name}" for name in task.clusters))
    separate = average_samples([task, other])
    low, high = interval(estimate_of(separate))
    assert high - low < np.subtract(*interval(estimate_of(task))[::-1])


def draw_runs(
    generator: np.random.Generator,
    *,
    images: int,
    seeds: int = 1,
    advantage: float = 0.0,
    between_seeds: float = 0.0,
    is_clustered: bool = True,
) -> tuple[list[Sample], list[Sample]]:
    """Draw answers of two methods to questions about images, some of which have more questions.

    An answer is right if the sum of effects is positive: how easy the image and the question are,
    for both methods and for this one, and the luck of the seed, overall and with this image.
    """
    sizes = generator.integers(1, 8, images)
    image_N = np.repeat(np.arange(images), sizes)
    number = len(image_N)

    def effect(deviation: float, of_image: float) -> np.ndarray:
        return (
            generator.normal(0, deviation, number)
            + (generator.normal(0, of_image, images)[image_N])
        )

    ease_N = effect(0.7, 1.0)
    methods = []
    for gain in (advantage, 0.0):
        own_N = ease_N + gain + effect(0.0, 0.6)
        methods.append(
            [
                make_sample(
                    100.0 * (own_N + generator.normal(0, between_seeds) + effect(0.5, 0.5) > 0),
                    image_N.tolist() if is_clustered else None,
                )
                for _ in range(seeds)
            ]
        )
    return methods[0], methods[1]


def count_told_apart(seed: int, **settings: float) -> int:
    generator = np.random.default_rng(seed)
    pairs = (draw_runs(generator, **settings) for _ in range(PAIRS))  # type: ignore[arg-type]
    return sum(compare_samples(*pair).probability <= LEVEL for pair in pairs)


def test_runs_that_differ_by_chance_are_not_told_apart() -> None:
    """Where a test that takes the questions of one image as independent fails."""
    assert 2 <= count_told_apart(2, images=60) <= MAX_FALSE_ALARMS
    assert count_told_apart(2, images=60, is_clustered=False) > 1.5 * MAX_FALSE_ALARMS


@pytest.mark.parametrize("between_seeds", [0.0, 0.3])
def test_methods_that_differ_by_their_seeds_are_not_told_apart(between_seeds: float) -> None:
    assert count_told_apart(0, images=60, seeds=3, between_seeds=between_seeds) <= MAX_FALSE_ALARMS


def test_one_seed_of_each_says_nothing_about_other_seeds() -> None:
    """Two seeds of one method are different models, and a test of one pair says so."""
    assert count_told_apart(0, images=200, between_seeds=0.3) > 2 * MAX_FALSE_ALARMS


def test_runs_that_differ_are_told_apart_with_the_promised_power() -> None:
    generator = np.random.default_rng(0)
    (first,), (second,) = draw_runs(generator, images=20_000, advantage=0.4)
    pilot = compare_samples([first], [second])
    assert verdict(pilot.difference, pilot.probability) == "better"
    assert pilot.examples_needed is not None
    # Images have four questions on average.
    told_apart = count_told_apart(1, images=pilot.examples_needed // 4, advantage=0.4)
    assert told_apart / PAIRS == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / PAIRS))


def test_more_seeds_find_what_more_examples_cannot() -> None:
    few = count_told_apart(0, images=30, seeds=2, advantage=0.9, between_seeds=0.3)
    many = count_told_apart(0, images=30, seeds=5, advantage=0.9, between_seeds=0.3)
    assert few + PAIRS // 10 < many
    generator = np.random.default_rng(0)
    pair = draw_runs(generator, images=400, seeds=2, advantage=0.1, between_seeds=0.5)
    assert compare_samples(*pair).examples_needed is None


@pytest.mark.parametrize("advantage", [0.0, 2.5])
def test_intervals_contain_the_true_score(advantage: float) -> None:
    """Also near the maximum, where a symmetric interval would be too short."""
    generator = np.random.default_rng(0)
    # The sum of all effects is normal.
    deviation = math.sqrt(0.7**2 + 1 + 0.6**2 + 2 * 0.5**2)
    truth = 50 * (1 + math.erf(advantage / deviation / math.sqrt(2)))
    contained = 0
    for _ in range(PAIRS):
        (first,), _ = draw_runs(generator, images=40, advantage=advantage)
        low, high = interval(estimate_of(first))
        contained += low <= truth <= high
    assert contained / PAIRS == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / PAIRS))
