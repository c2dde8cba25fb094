"""The page: one self-contained file of HTML.

All text is escaped by the templates. The policy in the page's head allows its own style and script,
by their digest, and pictures that are part of the page, and nothing else; so text from data could
not run or load anything even if it were not escaped.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
import yaml
from markupsafe import Markup

from eval.leaderboard.board import Board, Group
from eval.leaderboard.reported import Reported, ReportedResults
from eval.leaderboard.runs import Run
from eval.leaderboard.tables import group_caption, group_title
from eval.leaderboard.units import (
    number_text,
    printable,
    score_text,
    setting_text,
    unit_text,
)
from eval.report.curves import Panel, training_curves
from eval.report.examples import ExampleSheet, Pictures
from eval.report.plot import Plot, scatter_plot
from eval.run_files import GitState, Memory, Parameters, RunRecord

__all__ = ["render_page"]

FILES = jinja2.PackageLoader("eval.report")


@dataclass(frozen=True, slots=True)
class _Section:
    """A group as the template shows it."""

    group: Group
    caption: str
    special: Mapping[str, str]
    reported: Sequence[Reported]
    plot: Plot | None


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
    reported: ReportedResults | None = None,
    sheets: Mapping[str, Sequence[ExampleSheet]] | None = None,
    pictures: Pictures | None = None,
) -> str:
    """Render the leaderboard with a page for each run.

    Args:
        board: What was measured.
        title: What the page is about.
        reported: What papers say; `None` leaves it out.
        sheets: Examples by name of the run.
        pictures: Of the examples.
    """
    anchors = _anchors(board.runs)
    used = pictures or {}
    places = {image_id: f"picture-{number}" for number, image_id in enumerate(used)}
    environment = jinja2.Environment(
        loader=FILES,
        autoescape=True,
        finalize=_visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(score_text=score_text, unit_text=unit_text, group_title=group_title)
    environment.filters["pretty"] = setting_text
    style, early, script = _source("page.css"), _source("early.js"), _source("page.js")
    sections = [_section(group, reported) for group in board.groups]
    return environment.get_template("page.html").render(
        title=title,
        board=board,
        sections=sections,
        plots=[section.plot and section.plot.data for section in sections],
        reported=reported,
        anchors=anchors,
        pages=_run_pages(board, anchors, sheets or {}),
        pictures={places[image_id]: _data_address(used[image_id]) for image_id in used},
        picture_places=places,
        style=Markup(style),
        early=Markup(early),
        script=Markup(script),
        policy=(
            f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(early)}' "
            f"'{_digest(script)}'; "
            "img-src data:; base-uri 'none'; form-action 'none'"
        ),
    )


def _visible(value: object) -> object:
    """What a template prints, without characters that would hide or reorder others."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value


def _section(group: Group, reported: ReportedResults | None) -> _Section:
    rows = reported.beside(group.splits) if reported else ()
    return _Section(
        group,
        group_caption(group),
        {name: group.protocol.get(name, "null") for name in group.special},
        rows,
        scatter_plot(group, rows),
    )


def _source(name: str) -> str:
    source, _, _ = FILES.get_source(jinja2.Environment(), name)
    return f"\n{source}"


def _digest(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _data_address(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _anchors(runs: Sequence[Run]) -> dict[str, str]:
    """An address within the page for each run, by name; readable where names allow it."""
    anchors: dict[str, str] = {}
    for run in runs:
        plain = "run-" + re.sub(r"[^A-Za-z0-9]+", "-", run.name).strip("-")
        anchor, number = plain, 1
        while anchor in anchors.values():
            number += 1
            anchor = f"{plain}-{number}"
        anchors[run.name] = anchor
    return anchors


def _run_pages(
    board: Board, anchors: Mapping[str, str], sheets: Mapping[str, Sequence[ExampleSheet]]
) -> list[_RunPage]:
    pages = []
    for number, group in enumerate(board.groups, start=1):
        for row in group.rows:
            for run in row.runs:
                panels, note = training_curves(run.folder, board.metrics)
                pages.append(
                    _RunPage(
                        anchor=anchors[run.name],
                        group=number,
                        run=run,
                        label=row.label,
                        facts=_facts(run.record),
                        scores=_scores(run.record),
                        panels=panels,
                        curves_note=note,
                        recipe=yaml.safe_dump(
                            run.record.recipe, sort_keys=False, allow_unicode=True
                        ),
                        packages={
                            name: version or "not installed"
                            for name, version in run.record.packages.items()
                        },
                        sheets=sheets.get(run.name, ()),
                    )
                )
    return pages


def _facts(record: RunRecord) -> dict[str, str]:
    """What is worth knowing at once; what is not known is left out."""
    memory = record.memory_bytes or Memory()
    facts = {
        "Backbone": record.backbone,
        "Trainable": _trainable(record.parameters),
        "Steps": _of(record.steps, record.total_steps),
        "Best checkpoint": f"step {record.best_step:,}" if record.best_step else None,
        "Training time": _known(record.train_seconds, "seconds"),
        "Speed, examples/s": _known(record.examples_per_second, "rate"),
        "Saved for backward": _parts(memory.saved_for_backward),
        "CUDA peak": _known(memory.peak_allocated, "bytes"),
        "Gradients": _known(memory.gradients, "bytes"),
        "Optimiser state": _known(memory.optimizer_state, "bytes"),
        "Seed": str(record.seed),
        "Device": record.device,
        "Processes": str(record.num_processes) if record.num_processes else None,
        "Code": _commit(record.git) if record.git else "installed package",
        "Code of earlier sessions": ", ".join(map(_commit, record.earlier_git)),
        "Environment": ", ".join(f"{k}={v}" for k, v in record.environment.items()),
        "Python": record.python,
    }
    return {name: text for name, text in facts.items() if text}


def _commit(git: GitState) -> str:
    changed = ", changed" if git.dirty else ""
    during = ", changed while it trained" if git.changed_during_run else ""
    return f"{git.commit[:12]}{changed}{during}"


def _trainable(parameters: Parameters | None) -> str | None:
    if parameters is None:
        return None
    share = number_text(parameters.percent_of_total, "percent")
    return f"{parameters.trainable:,} of {parameters.total:,} ({share})"


def _known(value: float | None, unit: str) -> str | None:
    return None if value is None else number_text(value, unit)


def _of(steps: int | None, total: int | None) -> str | None:
    if steps is None or total is None:
        return None
    return f"{steps:,}" if steps == total else f"{steps:,} of {total:,}"


def _parts(saved: Mapping[str, int] | None) -> str | None:
    if not saved or "total" not in saved:
        return None
    parts = [f"{name} {number_text(n, 'bytes')}" for name, n in saved.items() if name != "total"]
    total = number_text(saved["total"], "bytes")
    return f"{total} ({', '.join(parts)})" if parts else total


def _scores(record: RunRecord) -> list[tuple[str, str, dict[str, str]]]:
    """(task, split, metrics that are numbers) of everything that was scored."""
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
