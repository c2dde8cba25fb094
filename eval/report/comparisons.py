"""Comparisons of pairs of runs on the page: settings that differ, and paired tests."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.leaderboard.protocol import differing_settings
from eval.leaderboard.run_settings import describe_settings
from eval.leaderboard.runs import Run
from eval.statistics.estimates import Estimate
from eval.statistics.holm import adjust_probabilities
from eval.statistics.paired import Difference, compare, verdict

__all__ = ["MAX_TESTS", "compare_pairs", "compare_settings"]

# Two or three seconds of work.
MAX_TESTS = 20_000


def compare_settings(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the settings in which any two runs differ.

    Returns:
        The names as "names" and, as "runs", the list of each run's values as JSON texts; `None` if
        a run has no such setting.
    """
    described = [describe_settings(run.record) for run in runs]
    names = differing_settings(described)
    return {"names": names, "runs": [[each.get(name) for name in names] for each in described]}


def compare_pairs(
    estimates: Sequence[Mapping[str, Estimate]], max_tests: int = MAX_TESTS
) -> dict[str, dict[str, Any]]:
    """Test pairs of runs on the tasks of which both answered the same examples.

    Args:
        estimates: Score of each task with its variance, for each run.
        max_tests: Number of tests after which no pair is tested any more; pairs of runs that come
            first are tested first.

    Returns:
        {"INDEX,INDEX": {task: result of the first run against the second}}. p-values are adjusted
        for the number of tasks.
    """
    found: dict[str, dict[str, Any]] = {}
    num_tests = 0
    for second, others in enumerate(estimates):
        for first in range(second):
            if num_tests >= max_tests:
                return found
            tests = {
                task: test
                for task, estimate in estimates[first].items()
                if task in others and (test := compare(estimate, others[task])) is not None
            }
            if tests:
                num_tests += len(tests)
                found[f"{first},{second}"] = _described(tests)
    return found


def _described(tests: Mapping[str, Difference]) -> dict[str, Any]:
    adjusted = adjust_probabilities([test.probability for test in tests.values()])
    return {
        task: {
            "difference": round(test.difference, 4),
            "low": round(test.low, 4),
            "high": round(test.high, 4),
            "probability": float(f"{probability:.3g}"),
            "verdict": verdict(test.difference, probability),
            "examples": test.examples,
            "needed": test.examples_needed,
        }
        for (task, test), probability in zip(tests.items(), adjusted, strict=True)
    }
