"""Groups (runs under one protocol) and rows (averages over seeds) of the leaderboard."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.leaderboard.front import pareto_front
from eval.leaderboard.protocol import (
    differing_settings,
    is_floor_of,
    method_settings,
    protocol_of,
)
from eval.leaderboard.quantities import AVERAGE, COSTS, MEMORY, Cost, Statistic
from eval.leaderboard.runs import FoundRuns, LeftOutRun, Run
from eval.metrics import Metric
from eval.run_files import ZERO_SHOT

__all__ = ["Board", "Group", "Row", "build_board"]

MAX_SCORE = 1e6
MAX_SETTING_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Row:
    """A method with its settings, averaged over seeds.

    Args:
        label: Method, followed by the settings in which its rows differ.
        method: Method.
        settings: All settings of the method, as {field: JSON}.
        runs: Runs, sorted by seed.
        scores: Score of each task, then their average, in percent (CIDEr times 100).
        costs: Costs by the key of `COSTS`; `None` if a run lacks the value, or if it depends on
            the device or the number of processes and these differ between runs.
        is_on_front: Whether the row is on the Pareto front of the main score and memory.
        devices: Devices of the runs.
    """

    label: str
    method: str
    settings: Mapping[str, str]
    runs: tuple[Run, ...]
    scores: Mapping[str, Statistic]
    costs: Mapping[str, Statistic | None]
    is_on_front: bool
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The rows under one protocol.

    Args:
        tasks: Tasks of the runs.
        splits: Scored split of each task.
        protocol: Everything that the runs have in common, as {field: JSON}.
        distinctive_fields: Fields of the protocol in which other groups of the same tasks differ.
        devices: Devices of the runs.
        rows: Rows, best average first.
    """

    tasks: tuple[str, ...]
    splits: Mapping[str, str]
    protocol: Mapping[str, str]
    distinctive_fields: tuple[str, ...]
    devices: tuple[str, ...]
    rows: tuple[Row, ...]

    def is_comparable(self, cost: Cost) -> bool:
        """Return whether a cost can be compared between the rows."""
        return _is_comparable(cost, [run for row in self.rows for run in row.runs])

    def front(self, cost: Cost, score: str) -> list[int]:
        """Return the indices of the rows on the Pareto front; none if the cost is not comparable.

        A row without the cost is not compared, such as one that trains no parameters.

        Args:
            cost: Cost.
            score: Name of the score, one of `columns`.
        """
        if not self.is_comparable(cost):
            return []
        return pareto_front(
            [
                (found.mean, row.scores[score].mean)
                if (found := row.costs[cost.key]) and found.mean > 0
                else None
                for row in self.rows
            ]
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the scores: the average of several tasks, then each task."""
        return (AVERAGE, *self.tasks) if len(self.tasks) > 1 else self.tasks

    @property
    def main_column(self) -> str:
        """Name of the score that rows are sorted by."""
        return self.columns[0]

    @property
    def costs(self) -> tuple[Cost, ...]:
        """Costs that at least one row has."""
        return tuple(
            cost for cost in COSTS if any(row.costs[cost.key] is not None for row in self.rows)
        )


@dataclass(frozen=True, slots=True)
class Board:
    """The leaderboard.

    Args:
        groups: Groups of comparable runs.
        left_out: Runs that are not compared, with the reason.
        metrics: Primary metric of each known task.
    """

    groups: tuple[Group, ...]
    left_out: tuple[LeftOutRun, ...]
    metrics: Mapping[str, Metric]

    @property
    def runs(self) -> list[Run]:
        """All compared runs, in the order of the tables."""
        return [run for group in self.groups for row in group.rows for run in row.runs]


def build_board(
    found: FoundRuns, metrics: Mapping[str, Metric], splits: Mapping[str, str] | None = None
) -> Board:
    """Group runs by protocol, average them over seeds, and compare them.

    Args:
        found: Runs.
        metrics: Primary metric of each known task.
        splits: Split to compare, by task. Default: the split that chose the best checkpoint.
    """
    left_out = list(found.left_out)
    by_protocol: defaultdict[str, list[_ScoredRun]] = defaultdict(list)
    protocols: dict[str, dict[str, str]] = {}
    # Runs without training come last, to be added to the groups of which they are the floor.
    for run in sorted(found.runs, key=lambda run: run.record.method == ZERO_SHOT):
        placed = _floors(run, by_protocol, protocols, metrics)
        for key, scored in placed:
            by_protocol[key].append(scored)
        if placed:
            continue
        try:
            scored = _score(run, metrics, splits or {})
        except _UnusableError as error:
            left_out.append(LeftOutRun(run.name, str(error)))
            continue
        protocol = protocol_of(run, scored.splits)
        key = str(sorted(protocol.items()))
        protocols[key] = protocol
        by_protocol[key].append(scored)
    groups: list[Group] = []
    for key, runs in by_protocol.items():
        runs_by_row, repeated = _runs_by_row(runs)
        left_out.extend(repeated)
        own = [each.run for each in runs]
        group = Group(
            tasks=tuple(own[0].record.tasks),
            splits=runs[0].splits,
            protocol=protocols[key],
            distinctive_fields=_differing_fields(protocols[key], protocols.values()),
            devices=_devices(own, own),
            rows=_rows(runs_by_row),
        )
        groups.append(_with_front(group))
    groups.sort(
        key=lambda group: (
            -len(group.tasks),
            group.tasks,
            -len(group.rows),
            -group.rows[0].scores[group.main_column].mean,
        )
    )
    return Board(tuple(groups), tuple(sorted(left_out, key=lambda each: each.name)), metrics)


class _UnusableError(Exception):
    """A run cannot be compared, for the reason in the message."""


@dataclass(frozen=True, slots=True)
class _ScoredRun:
    run: Run
    splits: dict[str, str]
    percents: dict[str, float]


def _floors(
    run: Run,
    groups: Mapping[str, Sequence[_ScoredRun]],
    protocols: Mapping[str, Mapping[str, str]],
    metrics: Mapping[str, Metric],
) -> list[tuple[str, _ScoredRun]]:
    """Return the keys of the trained groups that a run without training is a floor of.

    Such a run may have more tasks than a group; its part for the group comes with the key.
    """
    if run.record.method != ZERO_SHOT:
        return []
    found: list[tuple[str, _ScoredRun]] = []
    for key, (first, *_) in groups.items():
        tasks = first.run.record.tasks
        is_trained = first.run.record.method != ZERO_SHOT
        if not is_trained or not set(tasks) <= set(run.record.tasks):
            continue
        part = replace(run, record=run.record.model_copy(update={"tasks": tasks}))
        try:
            scored = _score(part, metrics, first.splits)
        except _UnusableError:
            continue
        if is_floor_of(protocol_of(part, scored.splits), protocols[key]):
            found.append((key, scored))
    return found


def _score(run: Run, metrics: Mapping[str, Metric], chosen: Mapping[str, str]) -> _ScoredRun:
    record = run.record
    splits: dict[str, str] = {}
    percents: dict[str, float] = {}
    for task in record.tasks:
        if task not in metrics:
            raise _UnusableError(f"unknown task {task!r:.40}; known tasks: {', '.join(metrics)}")
        metric, of_task = metrics[task], record.scores.get(task, {})
        split = chosen.get(task) or record.validation_split(task)
        if split is None or split not in of_task:
            found = f"scores of {', '.join(of_task)}" if of_task else "none"
            raise _UnusableError(
                f"no scores of {task} {split or 'on its validation split'}: found {found}. "
                "Run `vl-lst evaluate` to add them."
            )
        value: Any = of_task[split].get(metric.name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) <= MAX_SCORE:
            raise _UnusableError(
                f"{metric.name} of {task} {split} is {value!r:.40}; expected a number"
            )
        splits[task], percents[task] = split, value * metric.factor
    if len(record.tasks) > 1:
        percents[AVERAGE] = statistics.fmean(percents.values())
    return _ScoredRun(run, splits, percents)


def _is_comparable(cost: Cost, runs: Sequence[Run]) -> bool:
    same_device = len({run.record.device for run in runs}) <= 1
    same_processes = len({run.record.num_processes for run in runs}) <= 1
    if cost.depends_on_device:
        return same_device and same_processes
    return same_processes or not cost.depends_on_processes


def _devices(runs: Iterable[Run], among: Iterable[Run]) -> tuple[str, ...]:
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
    return "1 process" if number == 1 else f"{number} processes"


def _differing_fields(
    protocol: Mapping[str, str], protocols: Iterable[Mapping[str, str]]
) -> tuple[str, ...]:
    return tuple(
        differing_settings(each for each in protocols if each.get("task") == protocol.get("task"))
    )


def _runs_by_row(
    runs: Sequence[_ScoredRun],
) -> tuple[list[list[_ScoredRun]], list[LeftOutRun]]:
    """Return the runs of each row and those left out because they repeat a seed.

    A repeated seed would make the standard deviation too small.
    """
    rows: defaultdict[str, dict[int, _ScoredRun]] = defaultdict(dict)
    repeated: list[LeftOutRun] = []
    for scored in runs:
        run = scored.run
        seeds = rows[str(sorted(method_settings(run).items()))]
        first = seeds.setdefault(run.record.seed, scored)
        if first is not scored:
            reason = f"repeats {first.run.name}: same settings, seed {run.record.seed}"
            repeated.append(LeftOutRun(run.name, reason))
    return [[seeds[seed] for seed in sorted(seeds)] for seeds in rows.values()], repeated


def _rows(scored_by_row: Sequence[Sequence[_ScoredRun]]) -> tuple[Row, ...]:
    runs_by_row = [[each.run for each in scored] for scored in scored_by_row]
    settings = [method_settings(runs[0]) for runs in runs_by_row]
    costs = [{cost.key: _cost(cost, runs) for cost in COSTS} for runs in runs_by_row]
    scores: list[dict[str, Statistic]] = []
    for scored in scored_by_row:
        percents = [each.percents for each in scored]
        scores.append(
            {name: Statistic.of([each[name] for each in percents]) for name in percents[0]}
        )
    all_runs = [run for runs in runs_by_row for run in runs]
    main = AVERAGE if AVERAGE in scores[0] else next(iter(scores[0]))
    rows = [
        Row(
            label=_label(settings[index], settings),
            method=runs[0].record.method,
            settings=settings[index],
            runs=tuple(runs),
            scores=scores[index],
            costs=costs[index],
            is_on_front=False,
            devices=_devices(runs, all_runs),
        )
        for index, runs in enumerate(runs_by_row)
    ]
    return tuple(sorted(rows, key=lambda row: (-row.scores[main].mean, row.label)))


def _with_front(group: Group) -> Group:
    """Return the group with its rows marked that are on the front of main score and memory."""
    memory = next(cost for cost in COSTS if cost.key == MEMORY)
    front = group.front(memory, group.main_column)
    rows = (replace(row, is_on_front=index in front) for index, row in enumerate(group.rows))
    return replace(group, rows=tuple(rows))


def _cost(cost: Cost, runs: Sequence[Run]) -> Statistic | None:
    values = [cost.of(run.record) for run in runs]
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    if len(known) < len(values) or not _is_comparable(cost, runs):
        return None
    return Statistic.of(known)


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
