"""Which rows of a group differ by more than chance: paired tests between all of them.

Each score has one test for each pair of rows with per-example scores of the same examples. The
p-values are adjusted for all of these pairs, so that any of them may be looked at, also those with
a row that was chosen because it is the best.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from eval.leaderboard.units import MISSING, probability_text
from eval.statistics.estimates import Estimate
from eval.statistics.holm import adjust_probabilities
from eval.statistics.paired import LEVEL, Difference, Verdict, compare, verdict

__all__ = ["Contrast", "RowTest", "compare_rows", "contrast_with", "significance_document"]


@dataclass(frozen=True, slots=True)
class RowTest:
    """A paired test between two rows.

    Args:
        rows: Indices of the rows, in ascending order.
        test: Test of the first against the second.
        probability: p-value, adjusted for all tests of the score.
    """

    rows: tuple[int, int]
    test: Difference
    probability: float

    def difference_of(self, row: int) -> float:
        """Return how much higher the score of one of the rows is, in percent."""
        return self.test.difference if row == self.rows[0] else -self.test.difference

    def verdict_of(self, row: int) -> Verdict:
        """Return what the test says about one of the rows."""
        return verdict(self.difference_of(row), self.probability)


@dataclass(frozen=True, slots=True)
class Contrast:
    """A column of a table that compares every row with one of them.

    Args:
        heading: Heading of the column.
        reference: Index of the row that the others are compared with.
        tests: Test of each row against it; `None` for the row itself and without a test.
    """

    heading: str
    reference: int
    tests: tuple[RowTest | None, ...]

    def text(self, row: int) -> str:
        """Return the cell of a row."""
        if row == self.reference:
            return self.heading.removeprefix("vs ")
        test = self.tests[row]
        return MISSING if test is None else test.verdict_of(row)

    def detail(self, row: int) -> str:
        """Return the difference and the p-value of a row; empty if there is no test."""
        found = self.tests[row]
        if found is None:
            return ""
        return f"{found.difference_of(row):+.2f}, adjusted p {probability_text(found.probability)}"


def compare_rows(estimates: Sequence[Estimate | None]) -> tuple[RowTest, ...]:
    """Test each pair of rows.

    Args:
        estimates: Score of each row; `None` if its variance is unknown.
    """
    found: list[tuple[tuple[int, int], Difference]] = []
    for first, second in combinations(range(len(estimates)), 2):
        one, other = estimates[first], estimates[second]
        test = compare(one, other) if one and other else None
        if test is not None:
            found.append(((first, second), test))
    adjusted = adjust_probabilities([test.probability for _, test in found])
    return tuple(
        RowTest(rows, test, probability)
        for (rows, test), probability in zip(found, adjusted, strict=True)
    )


def contrast_with(
    heading: str, reference: int, tests: Sequence[RowTest], num_rows: int
) -> Contrast | None:
    """Return the column that compares the rows with one of them; `None` if no row has a test.

    Args:
        heading: Heading of the column, beginning with "vs ".
        reference: Index of the row.
        tests: Tests between the rows.
        num_rows: Number of rows.
    """
    by_row = {sum(each.rows) - reference: each for each in tests if reference in each.rows}
    if not by_row:
        return None
    return Contrast(heading, reference, tuple(by_row.get(row) for row in range(num_rows)))


def significance_document(
    tests: Mapping[str, Sequence[RowTest]], labels: Sequence[str]
) -> dict[str, Any]:
    """Return the tests of a group as JSON values.

    Args:
        tests: Tests of each score.
        labels: Label of each row.
    """
    return {
        "level": LEVEL,
        "adjusted": "Holm, over the pairs of rows of a score",
        "pairs": {
            score: [
                {
                    "rows": [labels[index] for index in each.rows],
                    "difference": each.test.difference,
                    "interval": [each.test.low, each.test.high],
                    "p": each.test.probability,
                    "adjusted_p": each.probability,
                    "verdict": each.verdict_of(each.rows[0]),
                    "includes_seeds": each.test.has_seeds,
                    "examples": each.test.examples,
                    "examples_needed": each.test.examples_needed,
                }
                for each in of_score
            ]
            for score, of_score in tests.items()
        },
    }
