"""Rows and groups of the leaderboard: runs of one protocol, averaged over seeds."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.leaderboard.front import pareto_front
from eval.leaderboard.protocol import differing_settings, method_settings, protocol_of
from eval.leaderboard.quantities import AVERAGE, COSTS, MEMORY, Cost, Statistic
from eval.leaderboard.runs import FoundRuns, LeftOut, Run
from eval.metrics import Metric

__all__ = ["Board", "Group", "Row", "build_board"]

LARGEST_SCORE = 1e6
LONGEST_SETTING = 40


@dataclass(frozen=True, slots=True)
class Row:
    """One method with its settings, over its seeds.

    Args:
        label: The method, and in brackets what tells it from its other rows.
        method: The method.
        settings: All its settings, as {field: JSON}.
        runs: Its runs, by seed.
        scores: Of each task, then of their average, in percent (CIDEr times 100).
        costs: By key of `COSTS`; `None` where some run lacks it, or where runs were measured on
            different devices or with different numbers of processes, if it depends on them.
        on_front: Whether no other row has a better average for less memory.
        devices: What its runs were measured on.
    """

    label: str
    method: str
    settings: Mapping[str, str]
    runs: tuple[Run, ...]
    scores: Mapping[str, Statistic]
    costs: Mapping[str, Statistic | None]
    on_front: bool
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one protocol, best average first.

    Args:
        tasks: What was trained.
        splits: The split of each task the scores are of.
        protocol: All that is equal, as {field: JSON}.
        special: The fields of it in which it differs from other groups of the same tasks.
        devices: What the runs were measured on.
        rows: The rows.
    """

    tasks: tuple[str, ...]
    splits: Mapping[str, str]
    protocol: Mapping[str, str]
    special: tuple[str, ...]
    devices: tuple[str, ...]
    rows: tuple[Row, ...]

    def is_comparable(self, cost: Cost) -> bool:
        """Whether a cost of one row can be compared with that of another."""
        return _is_comparable(cost, [run for row in self.rows for run in row.runs])

    @property
    def columns(self) -> tuple[str, ...]:
        """The scores there are: the average where there are several tasks, then each task."""
        return (AVERAGE, *self.tasks) if len(self.tasks) > 1 else self.tasks

    @property
    def main_column(self) -> str:
        """The score that rows are sorted by."""
        return self.columns[0]

    @property
    def costs(self) -> tuple[Cost, ...]:
        """The costs that were measured in any row."""
        return tuple(
            cost for cost in COSTS if any(row.costs[cost.key] is not None for row in self.rows)
        )


@dataclass(frozen=True, slots=True)
class Board:
    """Everything measured, and what was left out."""

    groups: tuple[Group, ...]
    left_out: tuple[LeftOut, ...]
    metrics: Mapping[str, Metric]

    @property
    def runs(self) -> list[Run]:
        """All runs that count, as they come in the tables."""
        return [run for group in self.groups for row in group.rows for run in row.runs]


def build_board(
    found: FoundRuns, metrics: Mapping[str, Metric], splits: Mapping[str, str] | None = None
) -> Board:
    """Group runs by protocol, average them over seeds, and compare them.

    Args:
        found: The runs.
        metrics: The primary metric of each task there is.
        splits: The split whose scores are compared, for tasks where it is not the one that chose
            the best checkpoint.
    """
    left_out = list(found.left_out)
    scored: dict[str, _Scored] = {}
    by_protocol: defaultdict[str, list[Run]] = defaultdict(list)
    protocols: dict[str, dict[str, str]] = {}
    for run in found.runs:
        try:
            scored[run.name] = _scored(run, metrics, splits or {})
        except _UnusableError as error:
            left_out.append(LeftOut(run.name, str(error)))
            continue
        protocol = protocol_of(run, scored[run.name].splits)
        key = str(sorted(protocol.items()))
        protocols[key] = protocol
        by_protocol[key].append(run)
    groups: list[Group] = []
    for key, runs in by_protocol.items():
        seeds_of_rows, repeated = _seeds_of_rows(runs)
        left_out.extend(repeated)
        groups.append(
            Group(
                tasks=tuple(runs[0].record.tasks),
                splits=scored[runs[0].name].splits,
                protocol=protocols[key],
                special=_special(protocols[key], protocols.values()),
                devices=_devices(runs, runs),
                rows=_rows(seeds_of_rows, scored),
            )
        )
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
    """A run cannot be compared; the message says why."""


@dataclass(frozen=True, slots=True)
class _Scored:
    splits: dict[str, str]
    percents: dict[str, float]


def _scored(run: Run, metrics: Mapping[str, Metric], chosen: Mapping[str, str]) -> _Scored:
    record = run.record
    splits: dict[str, str] = {}
    percents: dict[str, float] = {}
    for task in record.tasks:
        if task not in metrics:
            raise _UnusableError(f"there is no task {task!r:.40}; there are: {', '.join(metrics)}")
        metric, of_task = metrics[task], record.scores.get(task, {})
        split = chosen.get(task) or record.validation_split(task)
        if split is None or split not in of_task:
            raise _UnusableError(
                f"no scores of {task} {split or 'on its validation split'}; "
                f"{_found(of_task)}. Make them with `vl-lst evaluate`."
            )
        value: Any = of_task[split].get(metric.name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) <= LARGEST_SCORE:
            raise _UnusableError(
                f"{metric.name} of {task} {split} is {value!r:.40}; expected a number"
            )
        splits[task], percents[task] = split, value * metric.factor
    if len(record.tasks) > 1:
        percents[AVERAGE] = statistics.fmean(percents.values())
    return _Scored(splits, percents)


def _is_comparable(cost: Cost, runs: Sequence[Run]) -> bool:
    same_device = len({run.record.device for run in runs}) <= 1
    same_processes = len({run.record.num_processes for run in runs}) <= 1
    if cost.on_device:
        return same_device and same_processes
    return same_processes or not cost.by_process


def _devices(runs: Iterable[Run], among: Iterable[Run]) -> tuple[str, ...]:
    """Each device of runs, with the number of processes unless all runs of the group have one.

    Records of older versions do not have that number.
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


def _found(of_task: Mapping[str, Any]) -> str:
    return f"there are scores of {', '.join(of_task)}" if of_task else "there are none"


def _special(
    protocol: Mapping[str, str], protocols: Iterable[Mapping[str, str]]
) -> tuple[str, ...]:
    return tuple(
        differing_settings(each for each in protocols if each.get("task") == protocol.get("task"))
    )


def _seeds_of_rows(runs: Sequence[Run]) -> tuple[list[list[Run]], list[LeftOut]]:
    """Runs of the same settings, each seed once: twice, it would make the deviation too small."""
    rows: defaultdict[str, dict[int, Run]] = defaultdict(dict)
    repeated: list[LeftOut] = []
    for run in runs:
        seeds = rows[str(sorted(method_settings(run).items()))]
        first = seeds.setdefault(run.record.seed, run)
        if first is not run:
            reason = f"repeats {first.name}: same settings, seed {run.record.seed}"
            repeated.append(LeftOut(run.name, reason))
    return [[seeds[seed] for seed in sorted(seeds)] for seeds in rows.values()], repeated


def _rows(
    seeds_of_rows: Sequence[Sequence[Run]], scored: Mapping[str, "_Scored"]
) -> tuple[Row, ...]:
    settings = [method_settings(runs[0]) for runs in seeds_of_rows]
    costs = [{cost.key: _cost(cost, runs) for cost in COSTS} for runs in seeds_of_rows]
    scores: list[dict[str, Statistic]] = []
    for runs in seeds_of_rows:
        percents = [scored[run.name].percents for run in runs]
        scores.append(
            {name: Statistic.of([each[name] for each in percents]) for name in percents[0]}
        )
    main = AVERAGE if AVERAGE in scores[0] else next(iter(scores[0]))
    points = [
        (memory.mean, score[main].mean) if (memory := cost[MEMORY]) else None
        for score, cost in zip(scores, costs, strict=True)
    ]
    everything = [run for runs in seeds_of_rows for run in runs]
    memory_cost = next(cost for cost in COSTS if cost.key == MEMORY)
    front = pareto_front(points) if _is_comparable(memory_cost, everything) else []
    rows = [
        Row(
            label=_label(settings[place], settings),
            method=runs[0].record.method,
            settings=settings[place],
            runs=tuple(runs),
            scores=scores[place],
            costs=costs[place],
            on_front=place in front,
            devices=_devices(runs, everything),
        )
        for place, runs in enumerate(seeds_of_rows)
    ]
    return tuple(sorted(rows, key=lambda row: (-row.scores[main].mean, row.label)))


def _cost(cost: Cost, runs: Sequence[Run]) -> Statistic | None:
    values = [cost.of(run.record) for run in runs]
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    if len(known) < len(values) or not _is_comparable(cost, runs):
        return None
    return Statistic.of(known)


def _label(own: Mapping[str, str], settings: Sequence[Mapping[str, str]]) -> str:
    """The method, with what tells the row from other rows of the same method."""
    same_method = [each for each in settings if each["method.name"] == own["method.name"]]
    told = ", ".join(
        f"{name}={_plain(own[name])}" for name in differing_settings(same_method) if name in own
    )
    method = _plain(own["method.name"])
    return f"{method} ({told})" if told else method


def _plain(value: str) -> str:
    read = json.loads(value)
    text = read if isinstance(read, str) else value
    return text if len(text) <= LONGEST_SETTING else f"{text[: LONGEST_SETTING - 1]}…"
