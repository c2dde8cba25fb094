"""The scores of one run that a leaderboard compares."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from eval.leaderboard.quantities import AVERAGE
from eval.leaderboard.rows import FloorKind
from eval.leaderboard.runs import Run
from eval.metrics import Metric
from eval.run_files import ExampleScores
from eval.statistics.kept_scores import kept_sample
from eval.statistics.samples import Sample, average_samples

__all__ = ["ReadExampleScores", "ScoredRun", "UnusableError", "score_run"]

MAX_SCORE = 1e6

# (run, task, split) -> the per-example scores that the run kept, `None` if there are none.
ReadExampleScores = Callable[[Run, str, str], ExampleScores | None]


class UnusableError(Exception):
    """A run cannot be compared, for the reason in the message."""


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """A run with the scores to compare.

    Args:
        run: The run.
        splits: Scored split of each task.
        percents: Score of each task and, if there are several, their average, in percent.
        samples: The same scores by cluster of examples, of those with per-example scores.
        floor: What the run lacks if it is a floor of its table; `None` if it competes.
    """

    run: Run
    splits: dict[str, str]
    percents: dict[str, float]
    samples: dict[str, Sample] = field(default_factory=dict)
    floor: FloorKind | None = None


def score_run(
    run: Run,
    metrics: Mapping[str, Metric],
    chosen: Mapping[str, str],
    read_scores: ReadExampleScores | None = None,
) -> ScoredRun:
    """Return the scores of a run.

    Args:
        run: The run.
        metrics: Primary metric of each known task.
        chosen: Split to compare, by task. Default: the split that chose the best checkpoint.
        read_scores: Reads the per-example scores of a run; `None` if they are not needed.

    Raises:
        UnusableError: A task is unknown, or its score is missing or no number.
    """
    record = run.record
    splits: dict[str, str] = {}
    percents: dict[str, float] = {}
    samples: dict[str, Sample] = {}
    for task in record.tasks:
        if task not in metrics:
            raise UnusableError(f"unknown task {task!r:.40}; known tasks: {', '.join(metrics)}")
        metric, of_task = metrics[task], record.scores.get(task, {})
        split = chosen.get(task) or record.validation_split(task)
        if split is None or split not in of_task:
            found = f"scores of {', '.join(of_task)}" if of_task else "none"
            raise UnusableError(
                f"no scores of {task} {split or 'on its validation split'}: found {found}. "
                "Run `vl-lst evaluate` to add them."
            )
        value: Any = of_task[split].get(metric.name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) <= MAX_SCORE:
            raise UnusableError(
                f"{metric.name} of {task} {split} is {value!r:.40}; expected a number"
            )
        splits[task], percents[task] = split, value * metric.factor
        kept = read_scores(run, task, split) if read_scores else None
        if kept and (sample := kept_sample(kept, metric, value)):
            samples[task] = sample
    if len(record.tasks) > 1:
        percents[AVERAGE] = statistics.fmean(percents.values())
        if samples.keys() == set(record.tasks):
            samples[AVERAGE] = average_samples(list(samples.values()))
    return ScoredRun(run, splits, percents, samples)
