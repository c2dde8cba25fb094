"""Floors of a table: scores without training, and scores without seeing the images.

A run without training, and a blind run, whose image features are zeros, do not compete with the
other rows of a table: they say what a score is worth. A run is a floor of each table whose tasks,
splits, scored examples, rules and backbone it shares. A blind run that was trained must also have
been trained like the rows; a run without training shares nothing else with them. Runs that are the
floor of no table have a table of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from eval.leaderboard.protocol import BLIND_FIELD, protocol_of
from eval.leaderboard.rows import FloorKind
from eval.leaderboard.runs import Run
from eval.leaderboard.scoring import ReadExampleScores, ScoredRun, UnusableError, score_run
from eval.metrics import Metric
from eval.recipe_fields import get_field
from eval.run_files import ZERO_SHOT

__all__ = ["find_floors", "placement_order"]


def placement_order(run: Run) -> tuple[bool, bool]:
    """Return a key that sorts runs behind all runs of which they may be the floor."""
    return run.record.method == ZERO_SHOT, _is_blind(run)


def find_floors(
    run: Run,
    groups: Mapping[str, Sequence[ScoredRun]],
    protocols: Mapping[str, Mapping[str, str]],
    metrics: Mapping[str, Metric],
    read_scores: ReadExampleScores | None,
    rounded: Mapping[str, str],
) -> list[tuple[str, ScoredRun]]:
    """Return the groups that a run is a floor of, by key, with its scores of their tasks.

    A run without training may have more tasks than a group; the others are left out.

    Args:
        run: The run.
        groups: Runs of each group found so far; all that come before `run` in the order of
            `placement_order` are placed.
        protocols: Protocol of each group.
        metrics: Primary metric of each known task.
        read_scores: See `build_board`.
        rounded: See `rounded_fingerprints`.
    """
    found: list[tuple[str, ScoredRun]] = []
    for key, (first, *_) in groups.items():
        floor = _floor_kind(run, first.run)
        tasks = first.run.record.tasks
        if floor is None or not set(tasks) <= set(run.record.tasks):
            continue
        part = replace(run, record=run.record.model_copy(update={"tasks": tasks}))
        try:
            scored = score_run(part, metrics, first.splits, read_scores)
        except UnusableError:
            continue
        own, theirs = dict(protocol_of(part, scored.splits, rounded)), dict(protocols[key])
        if floor == "blind":
            own.pop(BLIND_FIELD)
            theirs.pop(BLIND_FIELD, None)
        is_same = own == theirs if run.record.method != ZERO_SHOT else own.items() <= theirs.items()
        if is_same:
            found.append((key, replace(scored, floor=floor)))
    return found


def _floor_kind(run: Run, other: Run) -> FloorKind | None:
    """Return as what a run might be a floor of a table with another run; `None` if it cannot be."""
    if _is_blind(run) and not _is_blind(other):
        return "blind"
    is_untrained = run.record.method == ZERO_SHOT and other.record.method != ZERO_SHOT
    return "zero-shot" if is_untrained and _is_blind(run) == _is_blind(other) else None


def _is_blind(run: Run) -> bool:
    return get_field(run.record.recipe, ("data", "blind")) is True
