"""Views of single runs on the page: facts, scores, curves and examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from eval.leaderboard.board import Board
from eval.leaderboard.runs import Run
from eval.leaderboard.units import number_text
from eval.report.curves import Panel, training_curves
from eval.report.examples import ExampleSheet
from eval.run_files import Forgetting, GitState, Inference, Memory, Parameters, RunRecord

__all__ = ["RunView", "run_views"]


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as the template shows it.

    Args:
        table: Number of the table that the run is in.
        run: The run.
        label: Label of its row.
        facts: Main facts, by label.
        scores: (task, split, metrics) of everything that was scored.
        panels: Training curves.
        curves_note: What is missing of the curves; empty if nothing is.
        recipe: Recipe as YAML.
        packages: Version of each package.
        sheets: Examples.
    """

    table: int
    run: Run
    label: str
    facts: Mapping[str, str]
    scores: Sequence[tuple[str, str, Mapping[str, str]]]
    panels: Sequence[Panel]
    curves_note: str
    recipe: str
    packages: Mapping[str, str]
    sheets: Sequence[ExampleSheet]


def run_views(board: Board, sheets: Mapping[str, Sequence[ExampleSheet]]) -> list[RunView]:
    """Return the view of each compared run, in the order of the tables.

    Args:
        board: Leaderboard.
        sheets: Examples of each run, by the name of the run.
    """
    views = []
    for index, row, run in board.placed_runs:
        panels, note = training_curves(run.folder, board.metrics)
        views.append(
            RunView(
                table=index + 1,
                run=run,
                label=row.label,
                facts=_facts(run.record),
                scores=_scores(run.record),
                panels=panels,
                curves_note=note,
                recipe=yaml.safe_dump(run.record.recipe, sort_keys=False, allow_unicode=True),
                packages={
                    name: version or "not installed"
                    for name, version in run.record.packages.items()
                },
                sheets=sheets.get(run.name, ()),
            )
        )
    return views


def _facts(record: RunRecord) -> dict[str, str]:
    """Return the main facts about a run, by their label; unknown ones are omitted."""
    memory = record.memory_bytes or Memory()
    facts = {
        "Backbone": record.backbone,
        "Trainable": _trainable(record.parameters),
        "Steps": _progress(record.steps, record.total_steps),
        "Best checkpoint": f"step {record.best_step:,}" if record.best_step else None,
        "Training time": _number(record.train_seconds, "seconds"),
        "Examples/s": _number(record.examples_per_second, "rate"),
        "Saved for backward": _saved_bytes(memory.saved_for_backward),
        "CUDA peak": _number(memory.peak_allocated, "bytes"),
        "Gradients": _number(memory.gradients, "bytes"),
        "Optimizer state": _number(memory.optimizer_state, "bytes"),
        "Checkpoint size": _number(record.checkpoint_bytes, "bytes"),
        "Answering": "; ".join(map(_answering, record.inference, record.inference.values())),
        "Forgetting": _forgetting(record.forgetting) if record.forgetting else None,
        "Seed": str(record.seed),
        "Device": record.device,
        "Processes": str(record.num_processes) if record.num_processes else None,
        "Code": _commit(record.git) if record.git else "installed package",
        "Code before resuming": ", ".join(map(_commit, record.earlier_git)),
        "Environment": ", ".join(f"{k}={v}" for k, v in record.environment.items()),
        "Python": record.python,
    }
    return {name: text for name, text in facts.items() if text}


def _commit(git: GitState) -> str:
    dirty = ", with uncommitted changes" if git.dirty else ""
    changed = ", changed during training" if git.changed_during_run else ""
    return f"{git.commit[:12]}{dirty}{changed}"


def _trainable(parameters: Parameters | None) -> str | None:
    if parameters is None:
        return None
    share = number_text(parameters.percent_of_total, "percent")
    return f"{parameters.trainable:,} of {parameters.total:,} ({share})"


def _answering(task: str, found: Inference) -> str:
    seconds = number_text(found.seconds_per_example, "seconds")
    peak = "" if found.peak_bytes is None else f", {number_text(found.peak_bytes, 'bytes')} at most"
    return (
        f"{task} {found.split}: {seconds} per example in batches of {found.batch_size:,} on "
        f"{found.device}{peak}"
    )


def _forgetting(found: Forgetting) -> str:
    how = " by construction, since the backbone is frozen" if found.is_by_construction else ""
    return (
        f"{number_text(found.increase, 'nats')} nats per token{how} (loss {found.loss_before:.4f} "
        f"before, {found.loss_after:.4f} after; {found.objective}, {found.tokens:,} tokens)"
    )


def _number(value: float | None, unit: str) -> str | None:
    return None if value is None else number_text(value, unit)


def _progress(steps: int | None, total: int | None) -> str | None:
    if steps is None or total is None:
        return None
    return f"{steps:,}" if steps == total else f"{steps:,} of {total:,}"


def _saved_bytes(saved: Mapping[str, int] | None) -> str | None:
    if not saved or "total" not in saved:
        return None
    parts = [f"{name} {number_text(n, 'bytes')}" for name, n in saved.items() if name != "total"]
    total = number_text(saved["total"], "bytes")
    return f"{total} ({', '.join(parts)})" if parts else total


def _scores(record: RunRecord) -> list[tuple[str, str, dict[str, str]]]:
    """Return (task, split, numeric metrics) for everything that was scored."""
    return [
        (
            task,
            split,
            {
                name: f"{value:.4g}"
                for name, value in metrics.items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            },
        )
        for task, splits in record.scores.items()
        for split, metrics in splits.items()
    ]
