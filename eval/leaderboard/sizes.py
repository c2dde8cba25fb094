"""Sizes of a method: rows that differ in the one option that decides how much the method trains.

The score of a method over its sizes shows which method is best at equal memory, which a single size
of each does not.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from eval.leaderboard.rows import Row
from eval.recipe_fields import get_field

__all__ = ["SizeSeries", "size_series"]

TRAINABLE = "trainable_percent"
OPTIONS = ("method", "options")


@dataclass(frozen=True, slots=True)
class SizeSeries:
    """Rows of one method that differ in one option, smallest first.

    Args:
        method: Method.
        option: Option in which the rows differ, such as `reduction`.
        values: Its value in each row, as JSON.
        rows: The rows, by their share of trainable parameters.
    """

    method: str
    option: str
    values: tuple[str, ...]
    rows: tuple[Row, ...]


def size_series(rows: Sequence[Row]) -> tuple[SizeSeries, ...]:
    """Return the series of sizes in a table, in the order of their best row.

    An option is a size if it is a number or a list (of layers, for example), and if rows that are
    equal in all other settings train a different share of the parameters. Of several such options
    of a method, the one with the longest series counts, so a row is in at most one series.

    Args:
        rows: Rows of a table, best first.
    """
    of_method: defaultdict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        of_method[row.method].append(place)
    found: list[tuple[int, SizeSeries]] = []
    for method, places in of_method.items():
        by_option = {
            option: series
            for option in _options([rows[place] for place in places])
            if (series := _series_of(option, [(place, rows[place]) for place in places]))
        }
        if by_option:
            option = max(by_option, key=lambda name: max(map(len, by_option[name])))
            found += [
                (min(place for place, _ in each), _build(method, option, each))
                for each in by_option[option]
            ]
    return tuple(series for _, series in sorted(found, key=lambda item: item[0]))


def _options(rows: Sequence[Row]) -> list[str]:
    """Return the options that the method of the rows has, without the settings of other sections.

    `Row.settings` names both alike.
    """
    names: dict[str, None] = {}
    for row in rows:
        for run in row.runs:
            options = get_field(run.record.recipe, OPTIONS)
            names |= dict.fromkeys(options if isinstance(options, dict) else ())
    return list(names)


def _series_of(option: str, placed: Sequence[tuple[int, Row]]) -> list[list[tuple[int, Row]]]:
    """Return groups of rows that differ in an option alone, each of them with another size."""
    groups: defaultdict[str, list[tuple[int, Row]]] = defaultdict(list)
    for place, row in placed:
        others = {name: value for name, value in row.settings.items() if name != option}
        if option in row.settings and row.costs[TRAINABLE] is not None:
            groups[json.dumps(others, sort_keys=True)].append((place, row))
    return [
        group
        for group in groups.values()
        if len(group) > 1
        and _is_amount([row.settings[option] for _, row in group])
        and len({_trainable(row) for _, row in group}) == len(group)
    ]


def _is_amount(values: Sequence[str]) -> bool:
    """Return whether all values are numbers or lists, or null, which stands for the default."""
    parsed = [json.loads(value) for value in values]
    known = [value for value in parsed if value is not None]
    return bool(known) and all(
        isinstance(value, int | float | list) and not isinstance(value, bool) for value in known
    )


def _build(method: str, option: str, group: Sequence[tuple[int, Row]]) -> SizeSeries:
    rows = sorted((row for _, row in group), key=_trainable)
    values = tuple(row.settings[option] for row in rows)
    return SizeSeries(method, option, values, tuple(rows))


def _trainable(row: Row) -> float:
    cost = row.costs[TRAINABLE]
    assert cost is not None, "rows without it are in no series"
    return cost.mean
