"""The leaderboard as Markdown, LaTeX and CSV."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eval.leaderboard.board import Board, Group
from eval.leaderboard.notes import (
    FLOOR_NOTE,
    SIGNIFICANCE_NOTE,
    SUITE_NOTE,
    answering_note,
    cost_note,
    incomplete_notes,
    needed_note,
    recompute_note,
)
from eval.leaderboard.quantities import AVERAGE, COSTS, Cost, Statistic
from eval.leaderboard.reported import ReportedResults, ReportedRow, matching_rows
from eval.leaderboard.rows import Row
from eval.leaderboard.units import MISSING, number_text, score_text, setting_text, unit_text
from eval.text import escape_controls, escape_markdown

__all__ = [
    "costs_with_reported",
    "group_caption",
    "group_title",
    "recompute_text",
    "to_csv",
    "to_latex",
    "to_markdown",
]

FLOOR, MEASURED, REPORTED = "floor", "measured", "reported"
RECOMPUTE = "Recompute"
CSV_FIELDS = (
    "group",
    "kind",
    "method",
    "recompute",
    "backbone",
    "runs",
    "seeds",
    "device",
    "source",
)

LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
    "…": r"\ldots{}",
    "\n": " ",
    "\r": " ",
}


def group_caption(group: Group) -> str:
    """Return the tasks and splits of a group, such as `vqa on val2014, gqa on val`.

    Of a suite, return its name and the split of most tasks, such as `glue on dev`, and others.
    """
    if group.suite is not None:
        ((usual, _), *_) = Counter(group.splits.values()).most_common(1)
        others = [f"{task} on {split}" for task, split in group.splits.items() if split != usual]
        return f"{group.suite} on {usual}" + (f" ({', '.join(others)})" if others else "")
    return ", ".join(f"{task} on {group.splits[task]}" for task in group.tasks)


def group_title(group: Group) -> str:
    """Return the caption with the fields in which the group differs from others of its tasks."""
    differences = ", ".join(
        f"{name}: {setting_text(group.protocol.get(name, 'null'))}"
        for name in group.distinctive_fields
    )
    caption = group_caption(group)
    return f"{caption} ({differences})" if differences else caption


def costs_with_reported(group: Group, rows: Sequence[ReportedRow]) -> tuple[Cost, ...]:
    """Return the costs that a row of a group has, or one of the reported rows next to it."""
    reported = {key for row in rows for key in row.costs}
    return tuple(cost for cost in COSTS if cost in group.costs or cost.key in reported)


def recompute_text(row: Row) -> str:
    """Return whether a row's blocks are recomputed in the backward pass, or a dash."""
    if len(row.recomputing) > 1:
        return "in some runs"
    return {True: "yes", False: "no", None: MISSING}[row.recomputes]


def to_markdown(board: Board, reported: Sequence[ReportedResults]) -> str:
    """Return one Markdown table per group; `*` marks the Pareto front."""
    parts = []
    for table in _tables(board, reported):
        header = "| " + " | ".join(map(escape_markdown, table.header)) + " |"
        rule = "|" + "|".join([":--", *["--:"] * (len(table.header) - 1)]) + "|"
        rows = ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in table.rows]
        parts.append("\n".join([f"### {escape_markdown(table.caption)}", "", header, rule, *rows]))
        parts += [escape_markdown(table.note)] if table.note else []
    notes = [escape_markdown(note) for note in _notes(board, reported)]
    return "\n\n".join([*parts, *notes]) + "\n"


def to_latex(board: Board, reported: Sequence[ReportedResults]) -> str:
    """Return one LaTeX `table` per group; the document must load the package `booktabs`."""
    parts = []
    for number, table in enumerate(_tables(board, reported)):
        notes = [] if number else _notes(board, reported)  # long, so only once
        caption = " ".join([f"{table.caption}.", *([table.note] if table.note else []), *notes])
        lines = [_latex_row(row) for row in table.rows]
        parts_below = {table.reported_rows, table.reported_rows + table.floor_rows} - {0}
        for num_rows in sorted(parts_below, reverse=True):
            lines.insert(len(lines) - num_rows, r"\midrule")
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{_latex(caption)}}}",
                    rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
                    r"\toprule",
                    _latex_row(table.header),
                    r"\midrule",
                    *lines,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "% \\usepackage{booktabs}\n" + "\n\n".join(parts) + "\n"


def to_csv(board: Board, reported: Sequence[ReportedResults]) -> str:
    """Return all groups as one CSV table of plain numbers; cells without a value are empty."""
    tasks = list(dict.fromkeys(task for group in board.groups for task in group.tasks))
    scores = [AVERAGE, *tasks]
    costs = [cost.key for cost in COSTS]
    fields = [
        *CSV_FIELDS,
        *(f"{name}_{part}" for name in (*scores, *costs) for part in ("mean", "std")),
        "on_front",
        *(f"{name}_{part}" for name in scores for part in ("low", "high")),
        "vs_best",
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, restval="", lineterminator="\n")
    writer.writeheader()
    for group in board.groups:
        for index, row in enumerate(group.rows_and_floors):
            statistics = {**row.scores, **row.costs}
            writer.writerow(
                {
                    "group": _csv(group_title(group)),
                    "kind": FLOOR if row.floor else MEASURED,
                    "method": _csv(row.label),
                    "recompute": recompute_text(row) if row.recomputing else "",
                    "backbone": _csv(row.runs[0].record.backbone),
                    "runs": len(row.seeds),
                    "seeds": " ".join(map(str, row.seeds)),
                    "device": _csv("; ".join(row.devices)),
                    "on_front": int(row.is_on_front),
                    **_numbers(statistics.items()),
                    "vs_best": _csv_verdict(group, index),
                }
            )
    for each in (row for results in reported for row in results.rows):
        writer.writerow(
            {
                "kind": REPORTED,
                "method": each.method,
                "backbone": each.backbone,
                "source": each.source,
                **{f"{key}_mean": cost for key, cost in each.costs.items()},
                **_numbers((name, each.scores.get(name)) for name in scores),
            }
        )
    return text.getvalue()


@dataclass(frozen=True, slots=True)
class _Table:
    caption: str
    header: list[str]
    rows: list[list[str]]
    floor_rows: int
    reported_rows: int
    note: str | None = None


def _tables(board: Board, reported: Sequence[ReportedResults]) -> Iterable[_Table]:
    for group in board.groups:
        quoted = matching_rows(reported, group.splits)
        columns, costs = group.columns, costs_with_reported(group, quoted)
        contrasts = group.contrasts
        rows = [
            [
                f"{row.label}{' *' if row.is_on_front else ''}{f' ({FLOOR})' if row.floor else ''}",
                str(len(row.seeds)),
                *(score_text(row.scores[name]) for name in columns),
                *(each.text(index) for each in contrasts),
                recompute_text(row),
                *(unit_text(row.costs[cost.key], cost.unit) for cost in costs),
            ]
            for index, row in enumerate(group.rows_and_floors)
        ]
        quoted_rows = [
            [
                _reported_label(each),
                MISSING,
                *(score_text(each.score(name, group.tasks)) for name in columns),
                *(MISSING for _ in contrasts),
                MISSING,
                *(_reported_cost(each, cost) for cost in costs),
            ]
            for each in quoted
        ]
        headings = [each.heading for each in contrasts]
        header = ["method", "n", *columns, *headings, RECOMPUTE, *(cost.label for cost in costs)]
        notes = (
            needed_note(group),
            cost_note(group, costs),
            answering_note(group),
            recompute_note(group),
        )
        note = " ".join(filter(None, notes)) or None
        yield _Table(
            group_title(group), header, rows + quoted_rows, len(group.floors), len(quoted), note
        )
    for each in reported:
        if not any(each.matching(group.splits) for group in board.groups):
            yield _reported_table(each)


def _reported_table(reported: ReportedResults) -> _Table:
    """Return a table of the reported results, for boards without a group to add them to."""
    rows = [
        [
            _reported_label(each),
            *(score_text(each.scores.get(name)) for name in reported.columns),
            *(_reported_cost(each, cost) for cost in reported.costs),
        ]
        for each in reported.rows
    ]
    header = ["method", *reported.columns, *(cost.label for cost in reported.costs)]
    splits = ", ".join(f"{task} {split}" for task, split in reported.splits.items())
    return _Table(f"Results reported by papers, on {splits}", header, rows, 0, 0)


def _reported_cost(row: ReportedRow, cost: Cost) -> str:
    value = row.costs.get(cost.key)
    return MISSING if value is None else number_text(value, cost.unit)


def _reported_label(row: ReportedRow) -> str:
    return f"{row.method}, {row.backbone} ({REPORTED}: {row.source})"


def _notes(board: Board, reported: Sequence[ReportedResults]) -> list[str]:
    notes = [
        "Scores in percent (CIDEr times 100): mean ± sample standard deviation over n seeds. "
        "* marks the Pareto front of score against saved bytes, the memory that autograd saves for "
        "the backward pass."
    ]
    if any(group.contrasts for group in board.groups):
        notes.append(SIGNIFICANCE_NOTE)
    if any(group.floors for group in board.groups):
        notes.append(FLOOR_NOTE)
    suites = dict.fromkeys(group.suite for group in board.groups if group.suite is not None)
    notes += [f"{suite}: {SUITE_NOTE}" for suite in suites]
    notes += incomplete_notes(board)
    if reported:
        settings = " ".join(note for each in reported for note in each.notes)
        notes.append(
            f"Rows marked '{REPORTED}' are quoted from papers, not measured here. {settings}"
        )
    return notes


def _latex(text: str) -> str:
    return "".join(LATEX_ESCAPES.get(character, character) for character in escape_controls(text))


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


def _csv(text: str) -> str:
    """Return a cell that spreadsheets do not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def _numbers(statistics: Iterable[tuple[str, Statistic | None]]) -> dict[str, float]:
    numbers = {}
    for name, each in statistics:
        if each is not None:
            numbers[f"{name}_mean"] = each.mean
            if each.deviation is not None:
                numbers[f"{name}_std"] = each.deviation
            if each.interval is not None:
                numbers[f"{name}_low"], numbers[f"{name}_high"] = each.interval
    return numbers


def _csv_verdict(group: Group, row: int) -> str:
    text = group.contrasts[0].text(row) if group.contrasts else MISSING
    return "" if text == MISSING else text
