"""Two runs compared: settings, scores with a paired test, and the answers that differ."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.errors import InputError
from eval.leaderboard.protocol import differing_settings
from eval.leaderboard.run_settings import describe_settings
from eval.leaderboard.runs import Run, read_record
from eval.leaderboard.scoring import UnusableError, score_run
from eval.run_files import RECORD_FILE
from eval.statistics.estimates import Estimate, interval
from eval.statistics.holm import adjust_probabilities
from eval.statistics.paired import Difference, Verdict, compare, verdict
from eval.submissions import first_five
from tasks import get_task, task_names
from vl_lst.cli._differing_examples import (
    Answers,
    DifferingExample,
    count_only_right,
    find_differing,
    read_answers,
)
from vl_lst.cli._kept_answers import estimate_kept

__all__ = ["TaskComparison", "compare_settings", "compare_tasks", "read_run"]


@dataclass(frozen=True, slots=True)
class TaskComparison:
    """The scores of two runs on one task.

    Args:
        task: Name of the task.
        split: Scored split.
        metric: Name of the metric.
        scores: Score of each run in percent.
        intervals: Interval of each score at 95 % confidence; `None` if it is unknown.
        test: Paired test of the first run against the second; `None` if there is none.
        probability: p-value of the test, adjusted for the number of tasks.
        verdict: What the test says about the first run.
        note: Why there is no test or there are no examples; empty if there are.
        only_right: Number of examples that only the first and only the second run answers right;
            `None` if answers are not graded individually.
        examples: Examples on which they differ.
    """

    task: str
    split: str
    metric: str
    scores: tuple[float, float]
    intervals: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None)
    test: Difference | None = None
    probability: float | None = None
    verdict: Verdict | None = None
    note: str = ""
    only_right: tuple[int, int] | None = None
    examples: tuple[DifferingExample, ...] = ()


def read_run(folder: Path) -> Run:
    """Read a finished run.

    Raises:
        InputError: The folder is not that of a run, or the run has not succeeded.
    """
    path = folder / RECORD_FILE
    if not path.exists():
        raise InputError(
            f"{folder} is not a finished run: found no {RECORD_FILE}, expected the folder of a run "
            "of `vl-lst train`"
        )
    try:
        record = read_record(path)
    except InputError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if record.status != "success":
        reason = f" ({record.error})" if record.error else ""
        raise InputError(
            f"{folder} is not a finished run: its status is {record.status}{reason}, expected "
            f"success. Resume it with `vl-lst train --out {folder} --resume`."
        )
    return Run(str(folder), folder, record, {}, {})


def compare_settings(first: Run, second: Run) -> dict[str, tuple[str | None, str | None]]:
    """Return the settings and circumstances in which two runs differ.

    Returns:
        {name: value of each run as JSON}, the method first; `None` if a run has no such setting.
    """
    described = [describe_settings(run.record) for run in (first, second)]
    return {
        name: (described[0].get(name), described[1].get(name))
        for name in differing_settings(described)
    }


def compare_tasks(
    first: Run, second: Run, *, task: str | None, split: str | None, limit: int
) -> list[TaskComparison]:
    """Compare the scores of two runs on the tasks of which both have scores.

    Args:
        first: A run.
        second: Another run.
        task: Name of the only task to compare; `None` compares all.
        split: Split to compare. Default: the split that chose the best checkpoints.
        limit: Maximum number of differing examples per task.

    Raises:
        InputError: The runs have no task or split in common, or other examples.
    """
    found = [
        _compare_task(first, second, name, split or _common_split(first, second, name), limit)
        for name in _common_tasks(first, second, task)
    ]
    adjusted = iter(adjust_probabilities([each.test.probability for each in found if each.test]))
    return [
        replace(
            each,
            probability=(probability := next(adjusted)),
            verdict=verdict(each.test.difference, probability),
        )
        if each.test
        else each
        for each in found
    ]


def _common_tasks(first: Run, second: Run, task: str | None) -> list[str]:
    firsts, seconds = first.record.scores, second.record.scores
    common = [name for name in firsts if name in seconds and task in (None, name)]
    if not common:
        raise InputError(
            f"{first.name} has scores of {_listed(firsts)}, {second.name} of {_listed(seconds)}: "
            f"expected {f'scores of {task} in both' if task else 'a task in common'}"
        )
    return common


def _common_split(first: Run, second: Run, task: str) -> str:
    """Return the split that chose both checkpoints, or the only one that both have scores of."""
    validated = {run.record.validation_split(task) for run in (first, second)}
    firsts, seconds = (list(run.record.scores[task]) for run in (first, second))
    common = [name for name in firsts if name in seconds]
    chosen = [name for name in common if validated == {name}] or common
    if len(chosen) == 1:
        return chosen[0]
    advice = "Choose one with --split." if common else "Evaluate both on one split."
    raise InputError(
        f"{first.name} has scores of {task} on {_listed(firsts)}, {second.name} on "
        f"{_listed(seconds)}: expected one split in common. {advice}"
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _compare_task(first: Run, second: Run, name: str, split: str, limit: int) -> TaskComparison:
    metric = get_task(name).metric
    result = TaskComparison(
        task=name,
        split=split,
        metric=metric.name,
        scores=(_score(first, name, split), _score(second, name, split)),
    )
    try:
        firsts, seconds = read_answers(first, name, split), read_answers(second, name, split)
    except (InputError, OSError) as error:
        return replace(result, note=f"no paired test: {error}")
    _require_same_examples((first, second), (firsts, seconds))
    one, other = (
        estimate_kept(answers.kept, metric, run.record.scores[name][split][metric.name])
        for run, answers in ((first, firsts), (second, seconds))
    )
    test = compare(one, other) if one and other else None
    return replace(
        result,
        intervals=(interval(one) if one else None, interval(other) if other else None),
        test=test,
        note="" if test else _why_no_test((first, second), (one, other)),
        only_right=count_only_right(firsts, seconds),
        examples=find_differing(firsts, seconds, limit),
    )


def _score(run: Run, task: str, split: str) -> float:
    part = replace(run, record=run.record.model_copy(update={"tasks": [task]}))
    try:
        metrics = {name: get_task(name).metric for name in task_names()}
        return score_run(part, metrics, {task: split}).percents[task]
    except UnusableError as error:
        raise InputError(f"{run.name}: {error}") from None


def _why_no_test(runs: Sequence[Run], estimates: Sequence[Estimate | None]) -> str:
    for run, estimate in zip(runs, estimates, strict=True):
        if estimate is None:
            return (
                f"no paired test: the predictions of {run.name} are not those of its recorded "
                "score, or all of its examples share one image. `vl-lst evaluate` makes them again."
            )
    return "no paired test: the runs were scored on other versions of the examples"


def _require_same_examples(runs: Sequence[Run], answers: Sequence[Answers]) -> None:
    firsts, seconds = (each.kept.scores.keys() for each in answers)
    if firsts == seconds:
        return
    split, task = answers[0].split, answers[0].task.name
    alone = [id_ for id_ in firsts if id_ not in seconds] or [
        id_ for id_ in seconds if id_ not in firsts
    ]
    raise InputError(
        f"{runs[0].name} and {runs[1].name} were scored on other examples of {task} {split}: "
        f"found {len(firsts):,} and {len(seconds):,}, {len(firsts & seconds):,} of them in both "
        f"(not, for example, {first_five(alone)}); expected the same. Evaluate both on one split."
    )
