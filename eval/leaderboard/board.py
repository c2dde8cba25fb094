"""Groups (runs under one protocol) and rows (averages over seeds) of the leaderboard."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from eval.leaderboard.floors import find_floors, placement_order
from eval.leaderboard.front import pareto_front
from eval.leaderboard.protocol import (
    differing_settings,
    method_settings,
    protocol_of,
    rounded_fingerprints,
)
from eval.leaderboard.quantities import AVERAGE, COSTS, MEMORY, Cost
from eval.leaderboard.rows import Result, Row, build_rows, devices_of, is_comparable
from eval.leaderboard.runs import FoundRuns, LeftOutRun, Run
from eval.leaderboard.scoring import ReadExampleScores, ScoredRun, UnusableError, score_run
from eval.leaderboard.significance import Contrast, RowTest, compare_rows, contrast_with
from eval.leaderboard.suites import IncompleteSuite, TaskGroup, find_suite_groups
from eval.metrics import Metric

__all__ = ["Board", "Group", "Row", "build_board"]


@dataclass(frozen=True, slots=True)
class Group:
    """The rows under one protocol.

    Args:
        tasks: Tasks of the runs.
        splits: Scored split of each task.
        protocol: Everything that the runs have in common, as {field: JSON}.
        distinctive_fields: Fields of the protocol in which other groups of the same tasks differ.
        devices: Devices of the runs.
        rows: Rows that compete, best average first.
        floors: Rows to measure the others by, best average first: the frozen backbone without
            training, and models that are blind (`Row.floor` says which). A floor is never the best
            row or on a front, and has no costs that are not comparable with those of the rows. Its
            scores are tested like those of any row.
        suite: Name of the suite that the tasks make up, trained one by one; `None` if each run
            trains all of the tasks.
        tests: Paired tests between the rows and floors, by score; `RowTest.rows` are indices of
            `rows_and_floors`.
        contrasts: Comparisons of the main score with that of the best row and of the reference,
            with one test per row and floor.
        reference: Index of the reference among rows and floors, if there is one.
    """

    tasks: tuple[str, ...]
    splits: Mapping[str, str]
    protocol: Mapping[str, str]
    distinctive_fields: tuple[str, ...]
    devices: tuple[str, ...]
    rows: tuple[Row, ...]
    floors: tuple[Row, ...] = ()
    suite: str | None = None
    tests: Mapping[str, Sequence[RowTest]] = field(default_factory=dict)
    contrasts: tuple[Contrast, ...] = ()
    reference: int | None = None

    @property
    def rows_and_floors(self) -> tuple[Row, ...]:
        """The rows, followed by the floors: what tests and contrasts are about."""
        return (*self.rows, *self.floors)

    def is_comparable(self, cost: Cost) -> bool:
        """Return whether a cost can be compared between the rows."""
        return is_comparable(cost, [run for row in self.rows for run in row.runs])

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
        """Costs that at least one row or floor has."""
        return tuple(
            cost
            for cost in COSTS
            if any(row.costs[cost.key] is not None for row in self.rows_and_floors)
        )


@dataclass(frozen=True, slots=True)
class Board:
    """The leaderboard.

    Args:
        groups: Groups of comparable runs.
        left_out: Runs that are not compared, with the reason.
        metrics: Primary metric of each known task.
        incomplete: Runs that lack others to be a result of their suite.
    """

    groups: tuple[Group, ...]
    left_out: tuple[LeftOutRun, ...]
    metrics: Mapping[str, Metric]
    incomplete: tuple[IncompleteSuite, ...] = ()

    @property
    def placed_runs(self) -> list[tuple[int, Row, Run]]:
        """All compared runs in the order of the tables, with the index of their group and row.

        No run is repeated: groups of a suite only sum up runs of other groups, and a floor of
        several groups has its place in the first.
        """
        placed: dict[str, tuple[int, Row, Run]] = {}
        for index, group in enumerate(self.groups):
            if group.suite is None:
                for row in group.rows_and_floors:
                    for run in row.runs:
                        placed.setdefault(run.name, (index, row, run))
        return list(placed.values())


def build_board(
    found: FoundRuns,
    metrics: Mapping[str, Metric],
    splits: Mapping[str, str] | None = None,
    suites: Mapping[str, Sequence[str]] | None = None,
    *,
    read_scores: ReadExampleScores | None = None,
    reference: str | None = None,
) -> Board:
    """Group runs by protocol, average them over seeds, and compare them.

    Args:
        found: Runs.
        metrics: Primary metric of each known task.
        splits: Split to compare, by task. Default: the split that chose the best checkpoint.
        suites: Tasks of each suite, whose runs are also summed up; see `eval.leaderboard.suites`.
        read_scores: Reads the per-example scores of a run, for intervals and tests; `None` if there
            should be none.
        reference: Label of a row, or a method of which the best row is meant, that the others are
            compared with besides the best one.
    """
    by_protocol, protocols, unusable = _place_runs(found.runs, metrics, splits or {}, read_scores)
    left_out = [*found.left_out, *unusable]
    groups: list[Group] = []
    task_groups: list[TaskGroup] = []
    for key, runs in by_protocol.items():
        results_by_row, repeated = _results_by_row(
            [
                Result(
                    run.record.seed,
                    (run,),
                    scored.percents,
                    method_settings(run),
                    scored.samples,
                    scored.floor,
                )
                for scored in runs
                for run in (scored.run,)
            ]
        )
        left_out.extend(repeated)
        group = _build_group(
            tasks=tuple(runs[0].run.record.tasks),
            splits=runs[0].splits,
            protocol=protocols[key],
            distinctive_fields=_differing_fields(protocols[key], protocols.values()),
            results_by_row=results_by_row,
            reference=reference,
        )
        groups.append(group)
        if len(group.tasks) == 1:
            (task,) = group.tasks
            results = [result for row in results_by_row for result in row]
            task_groups.append(TaskGroup(task, group.splits[task], group.protocol, results))
    incomplete: list[IncompleteSuite] = []
    for suite, tasks in (suites or {}).items():
        suite_groups, lacking = _suite_groups(suite, tuple(tasks), task_groups, reference)
        groups += suite_groups
        incomplete += lacking
    return Board(
        tuple(sorted(groups, key=_sort_key)),
        tuple(sorted(left_out, key=lambda each: each.name)),
        metrics,
        tuple(sorted(incomplete, key=lambda each: (each.suite, each.method, each.seed))),
    )


def _place_runs(
    runs: Iterable[Run],
    metrics: Mapping[str, Metric],
    splits: Mapping[str, str],
    read_scores: ReadExampleScores | None,
) -> tuple[dict[str, list[ScoredRun]], dict[str, dict[str, str]], list[LeftOutRun]]:
    """Return the scored runs by protocol, the protocols by the same keys, and unusable runs.

    A floor is in each of the groups that it is a floor of.
    """
    by_protocol: defaultdict[str, list[ScoredRun]] = defaultdict(list)
    protocols: dict[str, dict[str, str]] = {}
    unusable: list[LeftOutRun] = []
    rounded = rounded_fingerprints(runs)
    # Floors come last, to be added to the groups that they are a floor of.
    for run in sorted(runs, key=placement_order):
        placed = find_floors(run, by_protocol, protocols, metrics, read_scores, rounded)
        for key, scored in placed:
            by_protocol[key].append(scored)
        if placed:
            continue
        try:
            scored = score_run(run, metrics, splits, read_scores)
        except UnusableError as error:
            unusable.append(LeftOutRun(run.name, str(error)))
            continue
        protocol = protocol_of(run, scored.splits, rounded)
        key = str(sorted(protocol.items()))
        protocols[key] = protocol
        by_protocol[key].append(scored)
    return by_protocol, protocols, unusable


def _sort_key(group: Group) -> tuple[bool, int, tuple[str, ...], int, float]:
    """Return a key that sorts suites first, then groups with more tasks and more rows."""
    return (
        group.suite is None,
        -len(group.tasks),
        group.tasks,
        -len(group.rows),
        -group.rows[0].scores[group.main_column].mean,
    )


def _suite_groups(
    suite: str, tasks: tuple[str, ...], task_groups: Sequence[TaskGroup], reference: str | None
) -> tuple[list[Group], list[IncompleteSuite]]:
    found, incomplete = find_suite_groups(suite, tasks, task_groups)
    protocols = [each.protocol for each in found]
    groups = [
        _build_group(
            tasks=tasks,
            splits=each.splits,
            protocol=each.protocol,
            distinctive_fields=tuple(differing_settings(protocols)),
            results_by_row=_results_by_row(each.results)[0],
            reference=reference,
            suite=suite,
        )
        for each in found
    ]
    return groups, incomplete


def _differing_fields(
    protocol: Mapping[str, str], protocols: Iterable[Mapping[str, str]]
) -> tuple[str, ...]:
    return tuple(
        differing_settings(each for each in protocols if each.get("task") == protocol.get("task"))
    )


def _results_by_row(
    results: Iterable[Result],
) -> tuple[list[list[Result]], list[LeftOutRun]]:
    """Return the results of each row and the runs left out because they repeat a seed.

    A repeated seed would make the standard deviation too small.
    """
    rows: defaultdict[str, dict[int, Result]] = defaultdict(dict)
    repeated: list[LeftOutRun] = []
    for result in results:
        seeds = rows[str((result.floor, sorted(result.settings.items())))]
        first = seeds.setdefault(result.seed, result)
        if first is not result:
            reason = f"repeats {first.runs[0].name}: same settings, seed {result.seed}"
            repeated += [LeftOutRun(run.name, reason) for run in result.runs]
    return [[seeds[seed] for seed in sorted(seeds)] for seeds in rows.values()], repeated


def _build_group(
    *,
    tasks: tuple[str, ...],
    splits: Mapping[str, str],
    protocol: Mapping[str, str],
    distinctive_fields: tuple[str, ...],
    results_by_row: Sequence[Sequence[Result]],
    reference: str | None,
    suite: str | None = None,
) -> Group:
    """Return the group of some results, compared with each other."""
    built = build_rows(results_by_row)
    rows = tuple(row for row in built if row.floor is None)
    runs = [run for row in rows for run in row.runs]
    group = Group(
        tasks=tasks,
        splits=splits,
        protocol=protocol,
        distinctive_fields=distinctive_fields,
        devices=devices_of(runs, runs),
        rows=rows,
        floors=tuple(_with_comparable_costs(row, runs) for row in built if row.floor is not None),
        suite=suite,
    )
    return _with_comparisons(group, reference)


def _with_comparable_costs(floor: Row, runs: Sequence[Run]) -> Row:
    """Return a floor without the costs that cannot be compared with those of the rows' runs."""
    costs = {
        cost.key: floor.costs[cost.key] if is_comparable(cost, [*runs, *floor.runs]) else None
        for cost in COSTS
    }
    return replace(floor, costs=costs)


def _with_comparisons(group: Group, reference: str | None) -> Group:
    """Return the group with its rows and floors tested, and rows on the front marked.

    The front is that of the main score and memory.
    """
    memory = next(cost for cost in COSTS if cost.key == MEMORY)
    front = group.front(memory, group.main_column)
    rows = [replace(row, is_on_front=index in front) for index, row in enumerate(group.rows)]
    tested = [*rows, *group.floors]
    tests = {
        name: compare_rows([row.estimates.get(name) for row in tested]) for name in group.columns
    }
    named = (index for index, row in enumerate(tested) if reference in (row.label, row.method))
    headings = {0: "vs best"}
    if (found := next(named, None)) is not None:
        headings.setdefault(found, f"vs {tested[found].label}")
    contrasts = (
        contrast_with(heading, row, tests[group.main_column], len(tested))
        for row, heading in headings.items()
    )
    return replace(
        group,
        rows=tuple(rows),
        tests=tests,
        contrasts=tuple(each for each in contrasts if each is not None),
        reference=found,
    )
