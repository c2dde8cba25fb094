"""Data of runs for the page's script: their scores, settings, tests and examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.leaderboard.board import Board
from eval.report.comparisons import compare_pairs, compare_settings
from eval.report.example_data import ExampleData, pack
from eval.report.examples import Pictures
from eval.statistics.estimates import Estimate, interval

__all__ = ["RunData", "run_blocks", "run_index"]

TESTS, PICTURES, SETTINGS = "tests", "pictures", "settings"


@dataclass(frozen=True, slots=True)
class RunData:
    """What the page's script shows of runs besides their static views.

    Args:
        examples: Examples and answers.
        estimates: Score of each task with its variance, by run.
        notes: What was left out, as sentences.
    """

    examples: ExampleData = field(default_factory=ExampleData)
    estimates: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def run_index(board: Board, data: RunData) -> dict[str, Any]:
    """Return what the script reads first: all runs, and the keys of their blocks."""
    runs = []
    for index, row, run in board.placed_runs:
        group = board.groups[index]
        estimates = data.estimates.get(run.name, {})
        tasks = {}
        for task in run.record.tasks:
            split, metric = group.splits[task], board.metrics[task]
            estimate = estimates.get(task)
            blocks = data.examples.answers.get((run.name, task))
            tasks[task] = {
                "split": split,
                "metric": metric.name,
                "score": metric.percent(run.record.scores[task][split][metric.name]),
                "interval": interval(estimate) if estimate else None,
                "blocks": blocks,
            }
        runs.append(
            {
                "name": run.name,
                "label": row.label,
                "seed": run.record.seed,
                "table": index + 1,
                "tasks": tasks,
            }
        )
    return {"runs": runs, "notes": list(data.notes)}


def run_blocks(board: Board, data: RunData, pictures: Pictures) -> dict[str, str]:
    """Return all blocks by their key.

    Args:
        board: Leaderboard.
        data: Data of its runs.
        pictures: Address of the thumbnail of each image, by image ID.
    """
    runs = [run for _, _, run in board.placed_runs]
    tests = compare_pairs([data.estimates.get(run.name, {}) for run in runs])
    return {
        SETTINGS: pack(compare_settings(runs)),
        TESTS: pack(tests),
        PICTURES: pack(pictures),
        **data.examples.blocks,
    }
