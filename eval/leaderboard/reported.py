"""Results that papers report, kept apart from results measured here."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from eval.leaderboard.quantities import AVERAGE, COSTS, Cost, Statistic

__all__ = ["ReportedResults", "ReportedRow", "matching_rows", "reported_results"]

TRAINABLE, PEAK = "trainable_percent", "peak_allocated"
# The paper's code divides bytes by 1024 squared, then by 1000.
BYTES_PER_GIGABYTE = 1000 * 2**20


@dataclass(frozen=True, slots=True)
class ReportedRow:
    """One row of a paper's table.

    Args:
        method: Name of the method in the paper.
        backbone: Language model.
        costs: Costs by the key of `COSTS`; those that the paper does not report are absent.
        scores: Score of each task and their `average`, in percent (CIDEr times 100); those that
            the paper does not report are absent.
        source: Paper.
        readings: Where a number was read, by the key of the cost, `average`, or `tasks`, if the
            source has several places.
    """

    method: str
    backbone: str
    costs: Mapping[str, float]
    scores: Mapping[str, Statistic]
    source: str
    readings: Mapping[str, str] = field(default_factory=dict)

    def score(self, name: str, tasks: Collection[str]) -> Statistic | None:
        """Return a score to compare with runs on `tasks`; an average only over the same tasks."""
        if name == AVERAGE and set(tasks) != self.scores.keys() - {AVERAGE}:
            return None
        return self.scores.get(name)


@dataclass(frozen=True, slots=True)
class ReportedResults:
    """Results of several papers under one protocol.

    Args:
        setting: Description of the protocol.
        splits: Scored split of each task.
        sources: Papers.
        rows: Their results.
        readings: Places where numbers were read, as {name: description}; see `ReportedRow`.
    """

    setting: str
    splits: Mapping[str, str]
    sources: tuple[str, ...]
    rows: tuple[ReportedRow, ...]
    readings: Mapping[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the scores that at least one row has: the average, then each task."""
        names = (AVERAGE, *self.splits)
        return tuple(name for name in names if any(name in row.scores for row in self.rows))

    @property
    def costs(self) -> tuple[Cost, ...]:
        """Costs that at least one row has."""
        return tuple(cost for cost in COSTS if any(cost.key in row.costs for row in self.rows))

    @property
    def notes(self) -> tuple[str, ...]:
        """The protocol, and the places where numbers were read."""
        places = (f"{name.capitalize()}: {text}" for name, text in self.readings.items())
        return (self.setting, *places)

    def matching(self, splits: Mapping[str, str]) -> tuple[ReportedRow, ...]:
        """Return the rows with a score of the runs, if the splits are those of the runs."""
        same = all(self.splits.get(task) == split for task, split in splits.items())
        return tuple(row for row in self.rows if same and row.scores.keys() & splits.keys())


def matching_rows(
    reported: Sequence[ReportedResults], splits: Mapping[str, str]
) -> tuple[ReportedRow, ...]:
    """Return the rows of all settings that are scored on the same splits as runs."""
    return tuple(row for each in reported for row in each.matching(splits))


def reported_results(tasks: Collection[str] | None = None) -> tuple[ReportedResults, ...]:
    """Return what papers report, one protocol after the other.

    Args:
        tasks: Return only the settings with at least one of these tasks; `None` returns all.
    """
    path = files("eval.leaderboard") / "reported_results.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    results = (
        ReportedResults(
            setting=each["setting"],
            splits=each["splits"],
            sources=tuple(each["sources"]),
            rows=tuple(map(_row, each["rows"])),
            readings=each.get("readings", {}),
        )
        for each in settings
    )
    return tuple(each for each in results if tasks is None or each.splits.keys() & set(tasks))


def _row(fields: Mapping[str, Any]) -> ReportedRow:
    costs = {TRAINABLE: fields[TRAINABLE]} if TRAINABLE in fields else {}
    if "peak_gigabytes" in fields:
        costs[PEAK] = fields["peak_gigabytes"] * BYTES_PER_GIGABYTE
    return ReportedRow(
        method=fields["method"],
        backbone=fields["backbone"],
        costs=costs,
        scores={name: Statistic(*pair) for name, pair in fields["scores"].items()},
        source=fields["source"],
        readings=fields.get("readings", {}),
    )
