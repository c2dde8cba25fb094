"""Results that papers report, kept apart from results measured here."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files

from eval.leaderboard.quantities import AVERAGE, Statistic

__all__ = ["REPORTED_COST", "ReportedResults", "ReportedRow", "reported_results"]

# Key of the only cost that papers report.
REPORTED_COST = "trainable_percent"


@dataclass(frozen=True, slots=True)
class ReportedRow:
    """One row of a paper's table.

    Args:
        method: Name of the method in the paper.
        backbone: Language model.
        trainable_percent: Percentage of the parameters that are trained.
        scores: Score of each task and their `average`, in percent (CIDEr times 100).
        source: Paper.
    """

    method: str
    backbone: str
    trainable_percent: float
    scores: Mapping[str, Statistic]
    source: str

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
    """

    setting: str
    splits: Mapping[str, str]
    sources: tuple[str, ...]
    rows: tuple[ReportedRow, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the scores: the average, then each task."""
        return (AVERAGE, *self.splits)

    def matching(self, splits: Mapping[str, str]) -> tuple[ReportedRow, ...]:
        """Return all rows if they are scored on the same splits as the runs, else none."""
        same = all(self.splits.get(task) == split for task, split in splits.items())
        return self.rows if same else ()


def reported_results() -> ReportedResults:
    """Return what papers report for CLIP-T5 and CLIP-BART on the four tasks."""
    path = files("eval.leaderboard") / "reported_results.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple(
        ReportedRow(
            method=row["method"],
            backbone=row["backbone"],
            trainable_percent=row["trainable_percent"],
            scores={name: Statistic(*pair) for name, pair in row["scores"].items()},
            source=row["source"],
        )
        for row in content["rows"]
    )
    return ReportedResults(content["setting"], content["splits"], tuple(content["sources"]), rows)
