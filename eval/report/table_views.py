"""Views of the tables on the page: headline, plot and costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.leaderboard.board import Board, Group
from eval.leaderboard.quantities import Cost
from eval.leaderboard.reported import ReportedResults, ReportedRow, matching_rows
from eval.leaderboard.tables import costs_with_reported, group_caption
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
        costs: Costs with a column.
        reported: Rows that papers report.
        reported_axes: Labels of the costs that reported rows have.
        plot: Scores against costs; see `scatter_plot`.
    """

    number: int
    group: Group
    caption: str
    distinctive_fields: Mapping[str, str]
    costs: Sequence[Cost]
    reported: Sequence[ReportedRow]
    reported_axes: Sequence[str]
    plot: dict[str, Any] | None


def table_views(board: Board, reported: Sequence[ReportedResults]) -> list[TableView]:
    """Return the view of each table.

    Args:
        board: Leaderboard.
        reported: Results that papers report.
    """
    return [_table_view(number, group, reported) for number, group in enumerate(board.groups, 1)]


def _table_view(number: int, group: Group, reported: Sequence[ReportedResults]) -> TableView:
    rows = matching_rows(reported, group.splits)
    plot = scatter_plot(group, rows)
    return TableView(
        number=number,
        group=group,
        caption=group_caption(group),
        distinctive_fields={
            name: group.protocol.get(name, "null") for name in group.distinctive_fields
        },
        costs=costs_with_reported(group, rows),
        reported=rows,
        reported_axes=[axis["label"] for axis in plot["x"] if axis["all"]] if plot else [],
        plot=plot,
    )
