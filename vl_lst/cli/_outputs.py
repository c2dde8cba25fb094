"""Options that name what a command writes: checked while options are parsed, before any work.

`-` stands for standard output. A report may go there, and then what is meant for people goes to
standard error; a folder, a feature file or a picture may not.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.errors import OutputError
from eval.outputs import atomic_path, check_output, json_bytes, names_standard_output, write_json
from vl_lst.cli._console import results

__all__ = [
    "STANDARD_OUTPUT",
    "JsonOption",
    "binary_file",
    "report_file",
    "write_json_report",
    "write_report",
]

STANDARD_OUTPUT = Path("-")
# Where a command's context keeps which option writes which file.
CLAIMED = "vl_lst.outputs"

Callback = Callable[[typer.Context, typer.CallbackParam, Any], Any]


def report_file(
    context: typer.Context, parameter: typer.CallbackParam, path: Path | None
) -> Path | None:
    """Check the path of a report, which may be standard output.

    Raises:
        OutputError: It cannot be written, or another option of the command writes it.
    """
    if path is None or context.resilient_parsing:
        return path
    if path == STANDARD_OUTPUT or names_standard_output(path):
        results.stderr = True
        path = STANDARD_OUTPUT
    else:
        check_output(path)
    _claim(context, parameter, path)
    return path


def binary_file(what: str, *, is_checked: bool = True) -> Callback:
    """Return the callback of an option whose file or folder cannot be standard output.

    Args:
        what: What it holds, for the message ("a feature file").
        is_checked: Whether the path is checked as a file; not so where the command itself does it.
    """

    def check(
        context: typer.Context, parameter: typer.CallbackParam, path: Path | None
    ) -> Path | None:
        if path is None or context.resilient_parsing:
            return path
        if path == STANDARD_OUTPUT or names_standard_output(path):
            raise OutputError(
                f"{parameter.opts[0]} {path}: {what} cannot go to standard output. Give the name "
                "of a place on disk."
            )
        if is_checked:
            check_output(path)
        _claim(context, parameter, path)
        return path

    return check


def _claim(context: typer.Context, parameter: typer.CallbackParam, path: Path) -> None:
    """Note that an option writes `path`.

    Raises:
        OutputError: Another option of the command writes it as well.
    """
    claimed: dict[str, str] = context.meta.setdefault(CLAIMED, {})
    option = parameter.opts[0]
    place = "standard output" if path == STANDARD_OUTPUT else os.path.realpath(path)
    if place in claimed:
        raise OutputError(
            f"{claimed[place]} and {option} both write {place}. Choose another place for one of "
            "them."
        )
    claimed[place] = option


JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Also write the result as JSON to this file; `-` is standard output.",
        callback=report_file,
    ),
]


def write_report(path: Path, content: bytes) -> None:
    """Write a report where `report_file` allowed it.

    Raises:
        OutputError: The file cannot be written.
    """
    if path != STANDARD_OUTPUT:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        return
    sys.stdout.flush()
    # What stands in for standard output may take texts only.
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        sys.stdout.write(content.decode())
    else:
        binary.write(content)
    sys.stdout.flush()


def write_json_report(path: Path | None, document: object) -> None:
    """Write what `--json` asks for, if anything.

    Raises:
        OutputError: The file cannot be written.
    """
    if path == STANDARD_OUTPUT:
        write_report(path, json_bytes(document))
    elif path is not None:
        write_json(path, document)
