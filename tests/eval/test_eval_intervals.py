"""Wilson's interval, and the majority baseline."""

import pytest

from eval.intervals import majority_share, wilson_interval


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_intervals_are_reproduced(
    right: int, total: int, low: float, high: float
) -> None:
    assert wilson_interval(right, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("total", [1, 3, 600])
def test_the_interval_contains_the_proportion_and_is_symmetric(total: int) -> None:
    for right in range(total + 1):
        low, high = wilson_interval(right, total)
        assert 0 <= low <= right / total <= high <= 1
        other_low, other_high = wilson_interval(total - right, total)
        assert (1 - other_high, 1 - other_low) == pytest.approx((low, high))


@pytest.mark.parametrize(("right", "total"), [(0, 0), (2, 1), (-1, 5)])
def test_invalid_proportions_are_refused(right: int, total: int) -> None:
    with pytest.raises(ValueError, match="is not a proportion"):
        wilson_interval(right, total)


def test_the_majority_answer_is_the_most_frequent() -> None:
    assert majority_share(["red", "blue", "red", "green"]) == 0.5
    with pytest.raises(ValueError, match="no answers"):
        majority_share([])
