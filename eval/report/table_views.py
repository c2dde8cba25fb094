"""Views of the tables on the page: headline, plot and costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.leaderboard.board import Board, Group
from eval.leaderboard.quantities import COSTS, MEMORY, Cost
from eval.leaderboard.reported import ReportedResults, ReportedRow, matching_rows
from eval.leaderboard.statement import describe_group, leading_rows
from eval.leaderboard.tables import costs_with_reported, group_caption
from eval.report.bars import Bar, score_bars
from eval.report.examples import ExampleSheet
from eval.report.gallery import Gallery, make_gallery
from eval.report.plot import scatter_plot

__all__ = ["TableView", "table_views"]


@dataclass(frozen=True, slots=True)
class TableView:
    """A table as the template shows it.

    Args:
        number: Number of the table, from 1.
        group: Rows and what they have in common.
        caption: Tasks and splits.
        distinctive_fields: Fields in which the table differs from others of the same tasks, as
            {field: JSON}.
        statement: What the table shows, in plain English.
        bars: Bars of each score: of the rows, the floors, then the reported rows.
        leaders: Rows with the highest score and those that are not told apart from it, by score.
        main_cost: Cost in the headline; `None` if no row has it.
        costs: Costs with a column.
        reported: Rows that papers report.
        reported_axes: Labels of the costs that reported rows have.
        plot: Scores against costs; see `scatter_plot`.
        gallery: Examples; `None` if there are none.
    """

    number: int
    group: Group
    caption: str
    distinctive_fields: Mapping[str, str]
    statement: str
    bars: Mapping[str, Sequence[Bar | None]]
    leaders: Mapping[str, frozenset[int]]
    main_cost: Cost | None
    costs: Sequence[Cost]
    reported: Sequence[ReportedRow]
    reported_axes: Sequence[str]
    plot: dict[str, Any] | None
    gallery: Gallery | None


def table_views(
    board: Board,
    reported: Sequence[ReportedResults],
    sheets: Mapping[str, Sequence[ExampleSheet]],
) -> list[TableView]:
    """Return the view of each table.

    Args:
        board: Leaderboard.
        reported: Results that papers report.
        sheets: Examples of each run, by the name of the run.
    """
    return [
        _table_view(number, group, reported, sheets) for number, group in enumerate(board.groups, 1)
    ]


def _table_view(
    number: int,
    group: Group,
    reported: Sequence[ReportedResults],
    sheets: Mapping[str, Sequence[ExampleSheet]],
) -> TableView:
    rows = matching_rows(reported, group.splits)
    plot = scatter_plot(group, rows)
    return TableView(
        number=number,
        group=group,
        caption=group_caption(group),
        distinctive_fields={
            name: group.protocol.get(name, "null") for name in group.distinctive_fields
        },
        statement=describe_group(group),
        bars={
            name: score_bars(
                [
                    *(row.scores[name] for row in group.rows_and_floors),
                    *(each.score(name, group.tasks) for each in rows),
                ],
                [row.scores[name] for row in group.floors],
            )
            for name in group.columns
        },
        leaders={name: leading_rows(group, name) for name in group.columns},
        main_cost=next(
            (cost for cost in COSTS if cost.key == MEMORY and cost in group.costs), None
        ),
        costs=costs_with_reported(group, rows),
        reported=rows,
        reported_axes=[axis["label"] for axis in plot["x"] if axis["all"]] if plot else [],
        plot=plot,
        gallery=make_gallery(group, sheets),
    )
