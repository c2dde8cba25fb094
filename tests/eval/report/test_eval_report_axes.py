"""Round ticks, and positions between the ends of an axis."""

import pytest

from eval.report.axes import linear_axis, logarithmic_axis


def plain(value: float) -> str:
    return f"{value:g}"


@pytest.mark.parametrize(
    "values",
    [[1.0], [0.0], [3.0, 3.0], [0.1, 1e9], [-5.0, 5.0], [None, 2.0], [], [None], [1e-9, 2e-9]],
)
@pytest.mark.parametrize("from_zero", [False, True])
def test_positions_are_between_zero_and_one(values: list[float | None], from_zero: bool) -> None:
    axis = linear_axis(values, plain, from_zero=from_zero)
    positions = [position for position in axis.positions if position is not None]
    positions += [position for position, _ in axis.ticks]
    assert all(-1e-6 <= position <= 1 + 1e-6 for position in positions)
    assert [each is None for each in axis.positions] == [value is None for value in values]
    assert 2 <= len(axis.ticks) <= 12


def test_ticks_are_round() -> None:
    labels = [label for _, label in linear_axis([37.2, 63.9], plain).ticks]
    assert labels == ["40", "50", "60"]
    labels = [
        label for _, label in linear_axis([3 * 1024.0], plain, from_zero=True, binary=True).ticks
    ]
    assert labels == ["0", "1024", "2048", "3072"]


def test_logarithmic_ticks_are_powers() -> None:
    axis = logarithmic_axis([0.8, 100.0], plain)
    assert axis is not None
    assert [label for _, label in axis.ticks] == ["1", "2", "5", "10", "20", "50", "100"]
    decade = axis.position_of(100) - axis.position_of(10)
    assert axis.position_of(10) - axis.position_of(1) == pytest.approx(decade, abs=2e-4)
    binary = logarithmic_axis([1000.0, 5000.0], plain, base=2)
    assert binary is not None
    assert [label for _, label in binary.ticks] == ["1024", "2048", "4096"]


@pytest.mark.parametrize("values", [[0.0, 1.0], [-1.0], [], [None]])
def test_only_positive_values_have_a_logarithmic_axis(values: list[float | None]) -> None:
    assert logarithmic_axis(values, plain) is None


def test_a_range_of_many_decades_has_few_ticks() -> None:
    axis = logarithmic_axis([1e-9, 1e12], plain)
    assert axis is not None
    assert len(axis.ticks) <= 9
