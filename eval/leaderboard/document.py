"""The leaderboard as JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from eval.leaderboard.board import Board
from eval.leaderboard.quantities import Statistic
from eval.leaderboard.reported import ReportedResults
from eval.leaderboard.rows import Row
from eval.leaderboard.significance import significance_document

__all__ = ["board_document"]


def board_document(board: Board, reported: Sequence[ReportedResults]) -> dict[str, Any]:
    """Return the leaderboard as JSON values; values that were not measured are `None`."""
    groups = [
        {
            "suite": group.suite,
            "tasks": list(group.tasks),
            "splits": dict(group.splits),
            "protocol": _parsed(group.protocol),
            "devices": list(group.devices),
            "rows": [_row_document(row) for row in group.rows],
            "floors": [{**_row_document(row), "floor": row.floor} for row in group.floors],
            "tests": significance_document(
                group.tests, [row.label for row in group.rows_and_floors]
            ),
        }
        for group in board.groups
    ]
    document: dict[str, Any] = {
        "schema_version": 3,
        "metrics": {
            name: {"metric": metric.name, "factor": metric.factor}
            for name, metric in board.metrics.items()
        },
        "groups": groups,
        "left_out": [{"name": each.name, "reason": each.reason} for each in board.left_out],
        "incomplete_suites": [
            {
                "suite": each.suite,
                "method": each.method,
                "seed": each.seed,
                "runs": list(each.runs),
                "reason": each.reason,
            }
            for each in board.incomplete
        ],
    }
    if reported:
        document["reported"] = [_reported_document(each) for each in reported]
    return document


def _row_document(row: Row) -> dict[str, Any]:
    return {
        "label": row.label,
        "method": row.method,
        "recompute": row.recomputes,
        "settings": _parsed(row.settings),
        "runs": [
            {
                "name": run.name,
                "seed": run.record.seed,
                "device": run.record.device,
                "num_processes": run.record.num_processes,
            }
            for run in row.runs
        ],
        "scores": {
            name: {**_statistic(each), "interval": each.interval}
            for name, each in row.scores.items()
        },
        "costs": {name: each and _statistic(each) for name, each in row.costs.items()},
        "on_front": row.is_on_front,
    }


def _reported_document(reported: ReportedResults) -> dict[str, Any]:
    return {
        "setting": reported.setting,
        "splits": dict(reported.splits),
        "sources": list(reported.sources),
        "readings": dict(reported.readings),
        "rows": [
            {
                "method": each.method,
                "backbone": each.backbone,
                "costs": dict(each.costs),
                "scores": {name: _statistic(score) for name, score in each.scores.items()},
                "source": each.source,
                "readings": dict(each.readings),
            }
            for each in reported.rows
        ],
    }


def _statistic(statistic: Statistic) -> dict[str, float | None]:
    return {"mean": statistic.mean, "std": statistic.deviation}


def _parsed(fields: Mapping[str, str]) -> dict[str, Any]:
    return {name: json.loads(value) for name, value in fields.items()}
