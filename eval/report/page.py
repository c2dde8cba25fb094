"""The leaderboard page: one self-contained HTML file.

The templates escape all text. In addition, the content security policy in the head of the page
allows only its own style sheet and scripts, by their digests, and embedded images, so that text
from data could not run or load anything even if it were not escaped.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from eval.leaderboard.board import Board, Group
from eval.leaderboard.notes import (
    FLOOR_NOTE,
    SIGNIFICANCE_NOTE,
    SUITE_NOTE,
    needed_note,
    recompute_note,
)
from eval.leaderboard.quantities import Cost
from eval.leaderboard.reported import ReportedResults, ReportedRow, matching_rows
from eval.leaderboard.runs import Run
from eval.leaderboard.tables import (
    costs_with_reported,
    group_caption,
    group_title,
    recompute_text,
)
from eval.leaderboard.units import number_text, score_text, setting_text, spread_text, unit_text
from eval.report.curves import Panel, training_curves
from eval.report.examples import ExampleSheet, Pictures
from eval.report.plot import scatter_plot
from eval.run_files import GitState, Memory, Parameters, RunRecord
from eval.text import escape_controls

__all__ = ["render_page"]

TEMPLATES = jinja2.PackageLoader("eval.report")


@dataclass(frozen=True, slots=True)
class _Section:
    """A group as the template shows it."""

    group: Group
    caption: str
    distinctive_fields: Mapping[str, str]
    costs: Sequence[Cost]
    reported: Sequence[ReportedRow]
    reported_axes: Sequence[str]
    plot: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class _RunPage:
    """A run as the template shows it."""

    anchor: str
    group: int
    run: Run
    label: str
    facts: Mapping[str, str]
    scores: Sequence[tuple[str, str, Mapping[str, str]]]
    panels: Sequence[Panel]
    curves_note: str
    recipe: str
    packages: Mapping[str, str]
    sheets: Sequence[ExampleSheet]


def render_page(
    board: Board,
    *,
    title: str,
    reported: Sequence[ReportedResults] = (),
    sheets: Mapping[str, Sequence[ExampleSheet]] | None = None,
    pictures: Pictures | None = None,
) -> str:
    """Return the HTML of the leaderboard, with a section per run.

    Args:
        board: Leaderboard.
        title: Heading of the page.
        reported: Results that papers report.
        sheets: Examples of each run, by the name of the run.
        pictures: JPEG files of the examples' images, by image id.
    """
    anchors = _anchors([run for _, _, run in board.placed_runs])
    pictures = pictures or {}
    picture_anchors = {image_id: f"picture-{number}" for number, image_id in enumerate(pictures)}
    environment = jinja2.Environment(
        loader=TEMPLATES,
        autoescape=True,
        finalize=_escape_if_text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        floor_note=FLOOR_NOTE,
        number_text=number_text,
        needed_note=needed_note,
        score_text=score_text,
        significance_note=SIGNIFICANCE_NOTE,
        spread_text=spread_text,
        unit_text=unit_text,
        group_title=group_title,
        recompute_note=recompute_note,
        recompute_text=recompute_text,
        suite_note=SUITE_NOTE,
    )
    environment.filters.update(pretty=setting_text, percent=_percent)
    style, early, script = _source("page.css"), _source("early.js"), _source("page.js")
    sections = [_section(group, reported) for group in board.groups]
    return environment.get_template("page.html").render(
        title=title,
        board=board,
        sections=sections,
        plots=[section.plot for section in sections],
        reported=reported,
        beside_runs=[
            any(each.matching(group.splits) for group in board.groups) for each in reported
        ],
        anchors=anchors,
        pages=_run_pages(board, anchors, sheets or {}),
        pictures={picture_anchors[key]: _data_url(jpeg) for key, jpeg in pictures.items()},
        picture_anchors=picture_anchors,
        style=Markup(style),
        early=Markup(early),
        script=Markup(script),
        policy=(
            f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(early)}' "
            f"'{_digest(script)}'; "
            "img-src data:; base-uri 'none'; form-action 'none'"
        ),
    )


def _escape_if_text(value: object) -> object:
    """Escape control characters in what a template prints, but not in its own markup."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return escape_controls(value)
    return value


def _percent(share: float) -> str:
    return f"{round(100 * share, 2)}%"


def _section(group: Group, reported: Sequence[ReportedResults]) -> _Section:
    rows = matching_rows(reported, group.splits)
    plot = scatter_plot(group, rows)
    return _Section(
        group,
        group_caption(group),
        {name: group.protocol.get(name, "null") for name in group.distinctive_fields},
        costs_with_reported(group, rows),
        rows,
        [axis["label"] for axis in plot["x"] if axis["all"]] if plot else [],
        plot,
    )


def _source(name: str) -> str:
    source, _, _ = TEMPLATES.get_source(jinja2.Environment(), name)
    return f"\n{source}"


def _digest(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _anchors(runs: Sequence[Run]) -> dict[str, str]:
    """Return a unique, readable anchor for each run, by the name of the run."""
    anchors: dict[str, str] = {}
    for run in runs:
        base = "run-" + re.sub(r"[^A-Za-z0-9]+", "-", run.name).strip("-")
        anchor, number = base, 1
        while anchor in anchors.values():
            number += 1
            anchor = f"{base}-{number}"
        anchors[run.name] = anchor
    return anchors


def _run_pages(
    board: Board, anchors: Mapping[str, str], sheets: Mapping[str, Sequence[ExampleSheet]]
) -> list[_RunPage]:
    pages = []
    for index, row, run in board.placed_runs:
        panels, note = training_curves(run.folder, board.metrics)
        pages.append(
            _RunPage(
                anchor=anchors[run.name],
                group=index + 1,
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
    return pages


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
        "Optimiser state": _number(memory.optimizer_state, "bytes"),
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
