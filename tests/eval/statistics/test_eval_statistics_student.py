"""Student's t and Holm's procedure, against SciPy 1.16 and statsmodels 0.14."""

import math

import pytest

from eval.statistics.holm import adjust_probabilities
from eval.statistics.student import two_sided_probability, two_sided_quantile


@pytest.mark.parametrize(
    ("t", "degrees", "expected"),
    [
        # 2 * scipy.stats.t.sf(t, degrees)
        (2.0, 1, 0.2951672353008665),
        (-2.5, 3.7, 0.07182202291182678),
        (1.96, 99, 0.052807113750970754),
        (12.0, 30, 5.580185415199261e-13),
        (0.3, 250_000, 0.7641774050495924),
        (0.0, 5, 1.0),
        (math.inf, 5, 0.0),
    ],
)
def test_tail_probabilities_are_those_of_scipy(t: float, degrees: float, expected: float) -> None:
    assert two_sided_probability(t, degrees) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        # scipy.stats.t.ppf(0.975, degrees)
        (1, 12.706204736174694),
        (2.5, 3.5746548420036817),
        (11, 2.200985160091639),
        (1000, 1.9623390808264083),
        (1e9, 1.959963984540054),
    ],
)
def test_quantiles_are_those_of_scipy(degrees: float, expected: float) -> None:
    assert two_sided_quantile(0.95, degrees) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("t", "degrees"), [(math.nan, 3), (1.0, 0), (1.0, math.nan)])
def test_numbers_without_a_distribution_are_refused(t: float, degrees: float) -> None:
    with pytest.raises(ValueError, match="degrees of freedom"):
        two_sided_probability(t, degrees)


def test_several_tests_are_adjusted_as_by_statsmodels() -> None:
    """Against `statsmodels.stats.multitest.multipletests(..., method="holm")`."""
    adjusted = adjust_probabilities([0.01, 0.04, 0.03, 0.005, 0.9])
    assert adjusted == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.9])
    assert adjust_probabilities([]) == []
