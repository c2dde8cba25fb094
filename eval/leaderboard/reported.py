"""Rows that papers report. Nothing here was measured by this project, and nothing mixes with it."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files

from eval.leaderboard.quantities import AVERAGE, Statistic

__all__ = ["Reported", "ReportedResults", "reported_results"]


@dataclass(frozen=True, slots=True)
class Reported:
    """One row of a paper's table.

    Args:
        method: As the paper calls it.
        backbone: The language model.
        trainable_percent: Share of the parameters that trains.
        scores: Of each task and of their `average`, in percent (CIDEr times 100).
        source: The paper.
    """

    method: str
    backbone: str
    trainable_percent: float
    scores: Mapping[str, Statistic]
    source: str

    def score(self, name: str, tasks: Collection[str]) -> Statistic | None:
        """A score beside those of runs on `tasks`; an average only where it is over the same."""
        if name == AVERAGE and set(tasks) != self.scores.keys() - {AVERAGE}:
            return None
        return self.scores.get(name)


@dataclass(frozen=True, slots=True)
class ReportedResults:
    """All of them.

    Args:
        setting: What they were obtained in.
        splits: The split of each task that they are of.
        sources: The papers.
        rows: What these report.
    """

    setting: str
    splits: Mapping[str, str]
    sources: tuple[str, ...]
    rows: tuple[Reported, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The scores each row has: the average, then each task."""
        return (AVERAGE, *self.splits)

    def beside(self, splits: Mapping[str, str]) -> tuple[Reported, ...]:
        """The rows that may stand beside runs scored on `splits`: all, or none on other ones."""
        same = all(self.splits.get(task) == split for task, split in splits.items())
        return self.rows if same else ()


def reported_results() -> ReportedResults:
    """What papers on adapting a CLIP-T5 or CLIP-BART to the four tasks report."""
    path = files("eval.leaderboard") / "reported_results.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple(
        Reported(
            method=row["method"],
            backbone=row["backbone"],
            trainable_percent=row["trainable_percent"],
            scores={name: Statistic(*pair) for name, pair in row["scores"].items()},
            source=row["source"],
        )
        for row in content["rows"]
    )
    return ReportedResults(content["setting"], content["splits"], tuple(content["sources"]), rows)
