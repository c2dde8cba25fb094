"""Options and scores that commands on a suite share."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import typer
from rich.table import Table
from rich.text import Text

from tasks import SUITES, Task
from vl_lst.cli._console import results

__all__ = ["SplitScores", "mean_score", "print_suite_scores", "refuse_options_of_one_task"]


@dataclass(frozen=True, slots=True)
class SplitScores:
    """The metrics of one split of a task.

    Args:
        task: The task.
        split: Name of the split.
        metrics: Metrics by name; those that are not numbers are not shown.
    """

    task: Task
    split: str
    metrics: Mapping[str, object]

    @property
    def percent(self) -> float | None:
        """The primary metric in percent; `None` if it could not be computed."""
        value = self.metrics.get(self.task.primary_metric)
        return value * self.task.metric.factor if _is_number(value) else None


def refuse_options_of_one_task(suite: str, options: Mapping[str, object]) -> None:
    """Refuse options that belong to one task.

    Args:
        suite: Name of the suite.
        options: Values by the name of the option; those that are not given are `None` or empty.

    Raises:
        typer.BadParameter: An option is given.
    """
    for name, value in options.items():
        if value:
            raise typer.BadParameter(
                f"{name} belongs to one task, but {suite} is a suite of {len(SUITES[suite])} "
                f"tasks. Leave it out, or give one of {', '.join(SUITES[suite])} as --task."
            )


def mean_score(suite: str, scores: Sequence[SplitScores]) -> float | None:
    """Return the mean of the tasks' primary metrics in percent; `None` if a task has none.

    The score of a task with several splits is their mean.
    """
    means = []
    for name in SUITES[suite]:
        percents = [each.percent for each in scores if each.task.name == name]
        known = [percent for percent in percents if percent is not None]
        if not known or len(known) < len(percents):
            return None
        means.append(statistics.fmean(known))
    return statistics.fmean(means)


def print_suite_scores(suite: str, scores: Sequence[SplitScores]) -> None:
    """Print a table with one row per split, and the mean if every task has a score."""
    table = Table(title=suite)
    primary = dict.fromkeys(each.task.primary_metric for each in scores)
    for name in ("task", "split", f"{', '.join(primary)} (percent)"):
        table.add_column(name, justify="left" if name in ("task", "split") else "right")
    table.add_column("other metrics", overflow="fold")
    for each in scores:
        percent = each.percent
        table.add_row(
            Text(each.task.name),
            Text(each.split),
            "-" if percent is None else f"{percent:.2f}",
            Text(", ".join(_other_metrics(each))),
        )
    results.print(table)
    mean = mean_score(suite, scores)
    if mean is not None:
        results.print(
            f"mean of the {len(SUITES[suite])} tasks in percent: {mean:.2f}", markup=False
        )


def _other_metrics(scores: SplitScores) -> Iterator[str]:
    for name, value in scores.metrics.items():
        if name != scores.task.primary_metric and _is_number(value):
            yield f"{name} {value:.4g}"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
