"""`vl-lst list`: what there is to choose from, with a line about each."""

from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from vl_lst.cli._console import QuietOption, announce_imports
from vl_lst.cli._outputs import JsonOption, write_json_report

__all__ = ["list_"]

Kind = Literal["methods", "tasks", "recipes", "backbones", "encoders"]


def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)],
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """List what there is to choose from: methods, tasks, recipes, backbones or image encoders.

    Example: vl-lst list methods
    """
    if kind == "backbones":
        announce_imports(quiet=quiet)
    from rich.table import Table
    from rich.text import Text

    from vl_lst.cli._catalogue import CATALOGUES
    from vl_lst.cli._console import results

    rows, notes = CATALOGUES[kind]()
    table = Table(title=kind)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    results.print(table)
    if not quiet:
        for note in notes:
            results.print(note, markup=False)
    write_json_report(json_file, {kind: rows})


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return str(value)
