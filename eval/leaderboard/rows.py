"""Rows of the leaderboard: the results of a method with its settings, averaged over seeds."""

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from eval.leaderboard.protocol import differing_settings
from eval.leaderboard.quantities import AVERAGE, COSTS, Cost, Statistic
from eval.leaderboard.runs import Run
from eval.statistics.estimates import Estimate, estimate_score, interval
from eval.statistics.samples import Sample
from eval.text import counted

__all__ = ["FloorKind", "Result", "Row", "build_rows", "devices_of", "is_comparable"]

MAX_SETTING_LENGTH = 40
# What a floor of a table lacks: training, or images to look at.
FloorKind = Literal["zero-shot", "blind"]


@dataclass(frozen=True, slots=True)
class Result:
    """What a row averages: one seed.

    Args:
        seed: Seed.
        runs: Its run, or its runs of a suite, one per task.
        percents: Score of each task, then their average, in percent.
        settings: All settings of the method, as {field: JSON}.
        samples: The scores by cluster of examples, of those with per-example scores.
        floor: What the runs lack if they are a floor of their table; `None` if they compete.
    """

    seed: int
    runs: tuple[Run, ...]
    percents: Mapping[str, float]
    settings: Mapping[str, str]
    samples: Mapping[str, Sample] = field(default_factory=dict)
    floor: FloorKind | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A method with its settings, averaged over seeds.

    Args:
        label: Method, followed by the settings in which its rows differ, and `blind` if it is.
        method: Method.
        settings: All settings of the method, as {field: JSON}.
        runs: Runs, sorted by seed; of a suite, one per task and seed.
        scores: Score of each task, then their average, in percent (CIDEr times 100).
        costs: Costs by the key of `COSTS`; `None` if a run lacks the value, or if it depends on
            the device or the number of processes and these differ between runs.
        is_on_front: Whether the row is on the Pareto front of the main score and memory.
        devices: Devices of the runs.
        estimates: The scores with their variance, of those with per-example scores of all seeds.
        floor: What the runs lack if they are a floor of their table; `None` if they compete.
    """

    label: str
    method: str
    settings: Mapping[str, str]
    runs: tuple[Run, ...]
    scores: Mapping[str, Statistic]
    costs: Mapping[str, Statistic | None]
    is_on_front: bool
    devices: tuple[str, ...]
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    floor: FloorKind | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that the row is averaged over, in ascending order."""
        return tuple(dict.fromkeys(run.record.seed for run in self.runs))

    @property
    def recomputing(self) -> frozenset[bool]:
        """Whether blocks of the runs are recomputed in the backward pass; both if runs differ.

        Records of older versions do not tell, but their settings do.
        """
        setting = json.loads(self.settings.get("recompute", "null"))
        used = {
            setting if run.record.recomputes is None else run.record.recomputes for run in self.runs
        }
        return frozenset(value for value in used if isinstance(value, bool))

    @property
    def recomputes(self) -> bool | None:
        """Whether blocks are recomputed; `None` if they cannot be, or if runs differ."""
        return next(iter(self.recomputing)) if len(self.recomputing) == 1 else None

    def runs_of(self, seed: int) -> tuple[Run, ...]:
        """Return the runs of a seed: one, or one per task of a suite."""
        return tuple(run for run in self.runs if run.record.seed == seed)


def build_rows(results_by_row: Sequence[Sequence[Result]]) -> tuple[Row, ...]:
    """Average the results of each row.

    Args:
        results_by_row: For each row, its results, sorted by seed.

    Returns:
        The rows, best main score first, floors among them.
    """
    settings = [results[0].settings for results in results_by_row]
    all_runs = [run for results in results_by_row for each in results for run in each.runs]
    rows = []
    for results, own in zip(results_by_row, settings, strict=True):
        runs = tuple(run for each in results for run in each.runs)
        estimates = _estimates(results)
        floor = results[0].floor
        row = Row(
            label=_label(own, settings) + (", blind" if floor == "blind" else ""),
            method=runs[0].record.method,
            settings=own,
            runs=runs,
            scores={
                name: _score(name, results, estimates.get(name)) for name in results[0].percents
            },
            costs={cost.key: _cost(cost, results) for cost in COSTS},
            is_on_front=False,
            devices=devices_of(runs, all_runs),
            estimates=estimates,
            floor=floor,
        )
        rows.append(row)
    main = AVERAGE if AVERAGE in rows[0].scores else next(iter(rows[0].scores))
    return tuple(sorted(rows, key=lambda row: (-row.scores[main].mean, row.label)))


def is_comparable(cost: Cost, runs: Sequence[Run]) -> bool:
    """Return whether a cost can be compared between runs, of those that have it."""
    if cost.measured_under is not None:
        by_task: dict[str, Hashable] = {}
        return all(
            by_task.setdefault(task, conditions) == conditions
            for run in runs
            if cost.of(run.record) is not None
            for task, conditions in cost.measured_under(run.record).items()
        )
    same_device = len({run.record.device for run in runs}) <= 1
    same_processes = len({run.record.num_processes for run in runs}) <= 1
    if cost.depends_on_device:
        return same_device and same_processes
    return same_processes or not cost.depends_on_processes


def devices_of(runs: Iterable[Run], among: Iterable[Run]) -> tuple[str, ...]:
    """Return the devices of runs, with the number of processes unless all of `among` have one.

    Records of older versions lack that number.
    """
    with_number = {run.record.num_processes for run in among} not in ({None}, {1})
    return tuple(
        sorted(
            {
                f"{run.record.device or 'unknown'}{f', {_processes(run)}' if with_number else ''}"
                for run in runs
            }
        )
    )


def _processes(run: Run) -> str:
    number = run.record.num_processes
    if number is None:
        return "number of processes not recorded"
    return counted(number, "process", "processes")


def _estimates(results: Sequence[Result]) -> dict[str, Estimate]:
    estimates = {}
    for name in results[0].samples:
        samples = [each.samples[name] for each in results if name in each.samples]
        if len(samples) == len(results) and (estimate := estimate_score(samples)) is not None:
            estimates[name] = estimate
    return estimates


def _score(name: str, results: Sequence[Result], estimate: Estimate | None) -> Statistic:
    score = Statistic.of([each.percents[name] for each in results])
    return score if estimate is None else replace(score, interval=interval(estimate))


def _cost(cost: Cost, results: Sequence[Result]) -> Statistic | None:
    if not is_comparable(cost, [run for each in results for run in each.runs]):
        return None
    values = [_cost_of_result(cost, each) for each in results]
    known = [value for value in values if value is not None]
    return None if len(known) < len(values) else Statistic.of(known)


def _cost_of_result(cost: Cost, result: Result) -> float | None:
    values = [cost.of(run.record) for run in result.runs]
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    if len(known) < len(values):
        return None
    if len(known) == 1:
        return known[0]
    return None if cost.of_suite is None else cost.of_suite(known)


def _label(own: Mapping[str, str], settings: Sequence[Mapping[str, str]]) -> str:
    """Return the method, with the settings in which the row differs from others of the method."""
    same_method = [each for each in settings if each["method.name"] == own["method.name"]]
    differences = ", ".join(
        f"{name}={_short_setting(own[name])}"
        for name in differing_settings(same_method)
        if name in own
    )
    method = _short_setting(own["method.name"])
    return f"{method} ({differences})" if differences else method


def _short_setting(value: str) -> str:
    parsed = json.loads(value)
    text = parsed if isinstance(parsed, str) else value
    return text if len(text) <= MAX_SETTING_LENGTH else f"{text[: MAX_SETTING_LENGTH - 1]}…"
