"""Suites: tasks that are trained one by one and summed up in one score, such as those of GLUE.

The result of a suite for one seed is made of one run per task. These runs have the same settings of
the method, the same seed, and the same protocol but for what belongs to a task: its data, its batch
size, and the number of epochs and steps. Such runs in one folder belong together if each task has
exactly one there; of the other runs, each task must have exactly one. A seed that lacks a task has
no result, since a mean over fewer tasks would not be comparable.
"""

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.leaderboard.quantities import AVERAGE
from eval.leaderboard.rows import Result
from eval.leaderboard.runs import Run
from eval.run_files import ZERO_SHOT
from eval.statistics.samples import average_samples

__all__ = ["IncompleteSuite", "SuiteGroup", "TaskGroup", "find_suite_groups"]

# Fields without a task's name that may differ between the tasks of a suite.
FIELDS_OF_TASK = ("task", "training.epochs", "training.steps", "total steps")
# The name of the task in settings that several tasks share.
ANY_TASK = "{task}"


@dataclass(frozen=True, slots=True)
class TaskGroup:
    """Results of one task under one protocol.

    Args:
        task: Name of the task.
        split: Scored split.
        protocol: Everything that the runs have in common, as {field: JSON}.
        results: One result per row and seed.
    """

    task: str
    split: str
    protocol: Mapping[str, str]
    results: Sequence[Result]


@dataclass(frozen=True, slots=True)
class SuiteGroup:
    """Results of a suite under one protocol.

    Args:
        splits: Scored split of each task.
        protocol: What all runs have in common, and what those of a task have, as {field: JSON}.
        results: One result per row and seed.
    """

    splits: Mapping[str, str]
    protocol: Mapping[str, str]
    results: Sequence[Result]


@dataclass(frozen=True, slots=True)
class IncompleteSuite:
    """Runs with the settings of one method and one seed that are not a result of their suite.

    Args:
        suite: Name of the suite.
        method: Name of the method.
        seed: Seed.
        runs: Names of the runs.
        reason: Why they are not a result.
    """

    suite: str
    method: str
    seed: int
    runs: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class _TaskResult:
    """A result of one task and the index of its group."""

    task: str
    result: Result
    group: int

    @property
    def run(self) -> Run:
        return self.result.runs[0]


def find_suite_groups(
    suite: str, tasks: Sequence[str], groups: Sequence[TaskGroup]
) -> tuple[list[SuiteGroup], list[IncompleteSuite]]:
    """Put results of single tasks together as results of a suite.

    Args:
        suite: Name of the suite.
        tasks: Tasks of the suite, in order.
        groups: Groups of single tasks.

    Returns:
        The results by protocol, and the runs of at least two tasks that are not a result.
    """
    alike: defaultdict[str, list[_TaskResult]] = defaultdict(list)
    untrained: defaultdict[str, dict[int, Result]] = defaultdict(dict)
    for index, group in enumerate(groups):
        if group.task not in tasks:
            continue
        for result in group.results:
            each = _TaskResult(group.task, result, index)
            if each.run.record.method == ZERO_SHOT:
                untrained[each.run.name][index] = result
            else:
                shared = _shared_fields(group.protocol, group.task)
                settings = _shared_fields(result.settings, group.task)
                key = json.dumps([shared, settings, result.seed, result.floor], sort_keys=True)
                alike[key].append(each)
    found: defaultdict[tuple[int, ...], list[list[Result]]] = defaultdict(list)
    incomplete: list[IncompleteSuite] = []
    for results in alike.values():
        complete, rest = _split_by_folder(results, tasks)
        reason = _reason_against(rest, tasks)
        if reason is None:
            complete.append(rest)
        elif len({each.task for each in rest}) > 1:
            incomplete.append(_describe_incomplete(suite, rest, reason))
        for one_per_task in complete:
            by_task = {each.task: each for each in one_per_task}
            ordered = [by_task[task] for task in tasks]
            found[tuple(each.group for each in ordered)].append([each.result for each in ordered])
    suites = []
    for indices, parts in found.items():
        if all(result.floor is not None for results in parts for result in results):
            continue  # floors without rows
        # A run without training has a result in each group of which it is the floor.
        parts += [
            [results_of_run[index] for index in indices]
            for results_of_run in untrained.values()
            if results_of_run.keys() >= set(indices)
        ]
        protocols = {groups[index].task: groups[index].protocol for index in indices}
        suites.append(
            SuiteGroup(
                splits={groups[index].task: groups[index].split for index in indices},
                protocol={"suite": json.dumps(suite), **_merge(protocols, without=("task",))},
                results=[_sum_up(tasks, results) for results in parts],
            )
        )
    return suites, incomplete


def _shared_fields(fields: Mapping[str, str], task: str) -> dict[str, str]:
    return {
        name: value
        for name, value in fields.items()
        if name not in FIELDS_OF_TASK and not name.endswith(f".{task}")
    }


def _split_by_folder(
    results: Sequence[_TaskResult], tasks: Sequence[str]
) -> tuple[list[list[_TaskResult]], list[_TaskResult]]:
    """Return the results of each folder with exactly one run per task, and all others."""
    folders: defaultdict[str, list[_TaskResult]] = defaultdict(list)
    for each in results:
        folders[str(each.run.folder.parent)].append(each)
    complete: list[list[_TaskResult]] = []
    rest: list[_TaskResult] = []
    for in_folder in folders.values():
        if _reason_against(in_folder, tasks) is None:
            complete.append(in_folder)
        else:
            rest += in_folder
    return complete, rest


def _reason_against(results: Sequence[_TaskResult], tasks: Sequence[str]) -> str | None:
    """Return why results do not make up a suite; `None` if each task has exactly one."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for each in results:
        names[each.task].append(each.run.name)
    if missing := [task for task in tasks if task not in names]:
        return f"no run of {', '.join(missing)} with the same settings"
    for task in tasks:
        if len(names[task]) > 1:
            return (
                f"{len(names[task])} runs of {task} that differ in what belongs to the task "
                f"({', '.join(names[task])}); expected one. Put the runs that belong together into "
                "a folder of their own."
            )
    return None


def _describe_incomplete(
    suite: str, results: Sequence[_TaskResult], reason: str
) -> IncompleteSuite:
    first = results[0]
    names = tuple(each.run.name for each in results)
    return IncompleteSuite(suite, first.run.record.method, first.result.seed, names, reason)


def _sum_up(tasks: Sequence[str], results: Sequence[Result]) -> Result:
    """Return the result of a suite from one result per task."""
    by_task = dict(zip(tasks, results, strict=True))
    percents = {task: result.percents[task] for task, result in by_task.items()}
    samples = {
        task: result.samples[task] for task, result in by_task.items() if task in result.samples
    }
    if samples.keys() == set(tasks):
        samples[AVERAGE] = average_samples(list(samples.values()))
    return Result(
        seed=results[0].seed,
        runs=tuple(run for result in results for run in result.runs),
        percents={**percents, AVERAGE: statistics.fmean(percents.values())},
        settings=_merge({task: result.settings for task, result in by_task.items()}),
        samples=samples,
        floor=results[0].floor,
    )


def _merge(fields: Mapping[str, Mapping[str, str]], without: Sequence[str] = ()) -> dict[str, str]:
    """Return fields of several tasks as one; those that differ between tasks end with the task.

    The task's name in a value, such as that of a prompt's prefix, is no difference.

    Args:
        fields: Fields of each task, as {field: JSON}.
        without: Fields to leave out.
    """
    values: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for task, of_task in fields.items():
        for name, value in of_task.items():
            if name not in without:
                values[name.removesuffix(f".{task}")][task] = value
    merged: dict[str, str] = {}
    for name, by_task in values.items():
        found = set(by_task.values())
        if len(found) > 1:
            found = {value.replace(task, ANY_TASK) for task, value in by_task.items()}
        if len(by_task) == len(fields) and len(found) == 1:
            merged[name] = found.pop()
        else:
            merged |= {f"{name}.{task}": value for task, value in by_task.items()}
    return merged
