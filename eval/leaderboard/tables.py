"""The leaderboard as Markdown, LaTeX, CSV and JSON: one table of cells, four ways to write it."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.leaderboard.board import Board, Group
from eval.leaderboard.quantities import AVERAGE, COSTS, Cost, Statistic
from eval.leaderboard.reported import Reported, ReportedResults
from eval.leaderboard.units import printable, score_text, setting_text, unit_text

__all__ = [
    "board_document",
    "cost_note",
    "group_caption",
    "group_title",
    "to_csv",
    "to_latex",
    "to_markdown",
]

MISSING = "–"
REPORTED = "reported"
CSV_FIELDS = ("group", "kind", "method", "backbone", "runs", "seeds", "device", "source")

LATEX_OF = {
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
    """What a group compares, such as `vqa on val2014, gqa on val`."""
    return ", ".join(f"{task} on {group.splits[task]}" for task in group.tasks)


def group_title(group: Group) -> str:
    """The caption, with what tells the group from others of the same tasks."""
    told = ", ".join(
        f"{name}: {setting_text(group.protocol.get(name, 'null'))}" for name in group.special
    )
    return f"{group_caption(group)} ({told})" if told else group_caption(group)


def cost_note(group: Group, costs: Sequence[Cost]) -> str | None:
    """Say which costs in the columns of a group do not compare between its rows; `None` if all do.

    Args:
        group: The group.
        costs: The costs that have a column.
    """
    apart = [cost.label for cost in costs if not group.is_comparable(cost)]
    if not apart:
        return None
    return (
        f"{', '.join(apart)}: not comparable between rows, which were measured on "
        f"{'; '.join(group.devices)}."
    )


def to_markdown(board: Board, reported: ReportedResults | None) -> str:
    """Write one table per group; `*` marks the Pareto front."""
    parts = []
    for table in _tables(board, reported):
        header = "| " + " | ".join(map(_markdown, table.header)) + " |"
        rule = "|" + "|".join([":--", *["--:"] * (len(table.header) - 1)]) + "|"
        rows = ["| " + " | ".join(map(_markdown, row)) + " |" for row in table.rows]
        parts.append("\n".join([f"### {_markdown(table.caption)}", "", header, rule, *rows]))
        parts += [_markdown(table.note)] if table.note else []
    notes = [_markdown(note) for note in _notes(board, reported)]
    return "\n\n".join([*parts, *notes]) + "\n"


def to_latex(board: Board, reported: ReportedResults | None) -> str:
    """Write one `table` with `booktabs` rules per group; the preamble needs that package."""
    parts = []
    for number, table in enumerate(_tables(board, reported)):
        notes = [] if number else _notes(board, reported)  # long, so they are said once
        caption = " ".join([f"{table.caption}.", *([table.note] if table.note else []), *notes])
        lines = [_latex_row(row) for row in table.rows]
        if table.reported_rows:
            lines.insert(len(lines) - table.reported_rows, r"\midrule")
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


def to_csv(board: Board, reported: ReportedResults | None) -> str:
    """Write all groups as one table of plain numbers; what was not measured is empty."""
    tasks = list(dict.fromkeys(task for group in board.groups for task in group.tasks))
    scores = [AVERAGE, *tasks]
    costs = [cost.key for cost in COSTS]
    fields = [
        *CSV_FIELDS,
        *(f"{name}_{part}" for name in (*scores, *costs) for part in ("mean", "std")),
        "on_front",
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, restval="", lineterminator="\n")
    writer.writeheader()
    for group in board.groups:
        for row in group.rows:
            statistics = {**row.scores, **row.costs}
            writer.writerow(
                {
                    "group": _csv(group_title(group)),
                    "kind": "measured",
                    "method": _csv(row.label),
                    "backbone": _csv(row.runs[0].record.backbone),
                    "runs": len(row.runs),
                    "seeds": " ".join(str(run.record.seed) for run in row.runs),
                    "device": _csv("; ".join(row.devices)),
                    "on_front": int(row.on_front),
                    **_numbers(statistics.items()),
                }
            )
    for each in reported.rows if reported else ():
        writer.writerow(
            {
                "kind": REPORTED,
                "method": each.method,
                "backbone": each.backbone,
                "source": each.source,
                "trainable_percent_mean": each.trainable_percent,
                **_numbers((name, each.scores.get(name)) for name in scores),
            }
        )
    return text.getvalue()


def board_document(board: Board, reported: ReportedResults | None) -> dict[str, Any]:
    """Return the leaderboard as plain values for JSON; what was not measured is `None`."""
    groups = [
        {
            "tasks": list(group.tasks),
            "splits": dict(group.splits),
            "protocol": _read_values(group.protocol),
            "devices": list(group.devices),
            "rows": [
                {
                    "label": row.label,
                    "method": row.method,
                    "settings": _read_values(row.settings),
                    "runs": [
                        {
                            "name": run.name,
                            "seed": run.record.seed,
                            "device": run.record.device,
                            "num_processes": run.record.num_processes,
                        }
                        for run in row.runs
                    ],
                    "scores": {name: _pair(each) for name, each in row.scores.items()},
                    "costs": {name: each and _pair(each) for name, each in row.costs.items()},
                    "on_front": row.on_front,
                }
                for row in group.rows
            ],
        }
        for group in board.groups
    ]
    document: dict[str, Any] = {
        "schema_version": 1,
        "metrics": {
            name: {"metric": metric.name, "factor": metric.factor}
            for name, metric in board.metrics.items()
        },
        "groups": groups,
        "left_out": [{"name": each.name, "reason": each.reason} for each in board.left_out],
    }
    if reported is not None:
        document["reported"] = {
            "setting": reported.setting,
            "splits": dict(reported.splits),
            "sources": list(reported.sources),
            "rows": [
                {
                    "method": each.method,
                    "backbone": each.backbone,
                    "trainable_percent": each.trainable_percent,
                    "scores": {name: _pair(score) for name, score in each.scores.items()},
                    "source": each.source,
                }
                for each in reported.rows
            ],
        }
    return document


@dataclass(frozen=True, slots=True)
class _Table:
    caption: str
    header: list[str]
    rows: list[list[str]]
    reported_rows: int
    note: str | None = None


def _tables(board: Board, reported: ReportedResults | None) -> Iterable[_Table]:
    for group in board.groups:
        columns, costs = group.columns, group.costs
        rows = [
            [
                f"{row.label}{' *' if row.on_front else ''}",
                str(len(row.runs)),
                *(score_text(row.scores[name]) for name in columns),
                *(unit_text(row.costs[cost.key], cost.unit) for cost in costs),
            ]
            for row in group.rows
        ]
        quoted = [
            [
                _reported_label(each),
                MISSING,
                *(score_text(each.score(name, group.tasks)) for name in columns),
                *(
                    unit_text(Statistic(each.trainable_percent, None), cost.unit)
                    if cost.key == "trainable_percent"
                    else MISSING
                    for cost in costs
                ),
            ]
            for each in (reported.beside(group.splits) if reported else ())
        ]
        header = ["method", "n", *columns, *(cost.label for cost in costs)]
        note = cost_note(group, costs)
        yield _Table(group_title(group), header, rows + quoted, len(quoted), note)
    if reported is not None and not any(reported.beside(g.splits) for g in board.groups):
        yield _reported_table(reported)


def _reported_table(reported: ReportedResults) -> _Table:
    """What papers report, where it may stand beside none of the groups."""
    rows = [
        [
            _reported_label(each),
            *(score_text(each.scores[name]) for name in reported.columns),
            unit_text(Statistic(each.trainable_percent, None), "percent"),
        ]
        for each in reported.rows
    ]
    header = ["method", *reported.columns, "Trainable"]
    return _Table(f"What papers report, on {_on(reported.splits)}", header, rows, 0)


def _reported_label(row: Reported) -> str:
    return f"{row.method}, {row.backbone} ({REPORTED}: {row.source})"


def _on(splits: Mapping[str, str]) -> str:
    return ", ".join(f"{task} {split}" for task, split in splits.items())


def _notes(board: Board, reported: ReportedResults | None) -> list[str]:
    notes = [
        "Scores in percent, CIDEr times 100; mean ± sample standard deviation over n seeds. "
        "* marks the Pareto front of score against saved bytes: what autograd keeps of a forward "
        "pass for its backward pass."
    ]
    if reported is not None:
        notes.append(f"Rows marked '{REPORTED}' are quoted, not measured here: {reported.setting}")
    return notes


def _markdown(text: str) -> str:
    one_line = " ".join(printable(text).split())
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", one_line)


def _latex(text: str) -> str:
    return "".join(LATEX_OF.get(character, character) for character in printable(text))


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


def _csv(text: str) -> str:
    """Spreadsheets take what begins like this for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def _numbers(statistics: Iterable[tuple[str, Statistic | None]]) -> dict[str, float]:
    numbers = {}
    for name, each in statistics:
        if each is not None:
            numbers[f"{name}_mean"] = each.mean
            if each.deviation is not None:
                numbers[f"{name}_std"] = each.deviation
    return numbers


def _pair(statistic: Statistic) -> dict[str, float | None]:
    return {"mean": statistic.mean, "std": statistic.deviation}


def _read_values(fields: Any) -> dict[str, Any]:
    return {name: json.loads(value) for name, value in fields.items()}
