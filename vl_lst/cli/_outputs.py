"""Options that name output files and folders, checked while options are parsed, before any work.

`-` is standard output. A report may go there, and then everything meant for people goes to standard
error; a folder, a feature file or a plot may not.
"""

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.errors import OutputError
from eval.outputs import atomic_path, check_output, json_bytes, names_standard_output
from vl_lst.cli._console import complain, results

__all__ = [
    "STANDARD_OUTPUT",
    "JsonOption",
    "OutputClaim",
    "binary_file",
    "claimed_outputs",
    "report_file",
    "write_json_report",
    "write_report",
]

STANDARD_OUTPUT = Path("-")
# Key in a command's context of its claims, by path.
CLAIMS = "vl_lst.outputs"


@dataclass(frozen=True, slots=True)
class OutputClaim:
    """A path that an option of the running command writes.

    Args:
        option: Name of the option.
        path: Path with symbolic links resolved; `-` is standard output.
        is_report: Whether the command line itself writes the file.
        is_text: Whether the file is text.
        may_be_input: Whether the file may also be an input of the command.
        holds_run: Whether the path is a run directory.
        holds: Names that the command writes in the folder, if it is not a run directory.
    """

    option: str
    path: str
    is_report: bool = False
    is_text: bool = False
    may_be_input: bool = False
    holds_run: bool = False
    holds: Collection[str] = ()


Callback = Callable[[typer.Context, typer.CallbackParam, Any], Any]


def report_file(
    context: typer.Context, parameter: typer.CallbackParam, path: Path | None
) -> Path | None:
    """Check the path of a report, which may be standard output.

    Raises:
        OutputError: The path cannot be written, or another option of the command writes it.
    """
    if path is None or context.resilient_parsing:
        return path
    if path == STANDARD_OUTPUT or names_standard_output(path):
        if sys.stdout is None:
            raise OutputError(f"{parameter.opts[0]} {path}: standard output is closed")
        results.stderr = True
        path = STANDARD_OUTPUT
    else:
        check_output(path)
    _claim(context, parameter, path, is_report=True, is_text=True)
    return path


def binary_file(
    kind: str,
    *,
    is_checked: bool = True,
    may_be_input: bool = False,
    holds_run: bool = False,
    holds: Collection[str] = (),
) -> Callback:
    """Return the callback of an option whose file or folder cannot be standard output.

    Args:
        kind: Kind of output for the error message, such as "a feature file".
        is_checked: Whether to check the path as a file; otherwise the command itself checks it.
        may_be_input: See `OutputClaim`.
        holds_run: See `OutputClaim`.
        holds: See `OutputClaim`.
    """

    def check(
        context: typer.Context, parameter: typer.CallbackParam, path: Path | None
    ) -> Path | None:
        if path is None or context.resilient_parsing:
            return path
        if path == STANDARD_OUTPUT or names_standard_output(path):
            raise OutputError(
                f"{parameter.opts[0]} {path}: {kind} cannot go to standard output. Give a path on "
                "disk."
            )
        if is_checked:
            check_output(path)
        _claim(
            context,
            parameter,
            path,
            is_report=is_checked,
            may_be_input=may_be_input,
            holds_run=holds_run,
            holds=holds,
        )
        return path

    return check


def claimed_outputs(context: typer.Context) -> list[OutputClaim]:
    """Return the outputs of the running command, standard output excepted."""
    claims: dict[str, OutputClaim] = context.meta.get(CLAIMS, {})
    return [claim for claim in claims.values() if claim.path != str(STANDARD_OUTPUT)]


def _claim(
    context: typer.Context, parameter: typer.CallbackParam, path: Path, **properties: Any
) -> None:
    """Record that an option writes `path`.

    Raises:
        OutputError: Another option of the command writes it as well.
    """
    claims: dict[str, OutputClaim] = context.meta.setdefault(CLAIMS, {})
    option = parameter.opts[0]
    real = str(path) if path == STANDARD_OUTPUT else os.path.realpath(path)
    if real in claims:
        shown = "standard output" if path == STANDARD_OUTPUT else real
        raise OutputError(
            f"{claims[real].option} and {option} both write {shown}. Choose another path for one "
            "of them."
        )
    claims[real] = OutputClaim(option, real, **properties)


JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Also write the result as JSON to this file; `-` is standard output.",
        callback=report_file,
    ),
]


def write_report(path: Path, content: bytes) -> bool:
    """Write a report to a path that `report_file` checked; print an error if that fails.

    After a failure the command continues, so that its other outputs are not lost, and exits with 1.

    Returns:
        Whether the report was written.
    """
    try:
        if path == STANDARD_OUTPUT:
            _write_standard_output(content)
        else:
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
    except OutputError as error:
        complain(str(error))
        results.has_unwritten_report = True
        return False
    return True


def _write_standard_output(content: bytes) -> None:
    try:
        sys.stdout.flush()
        # A replaced standard output may accept text only.
        binary = getattr(sys.stdout, "buffer", None)
        if binary is None:
            sys.stdout.write(content.decode())
        else:
            binary.write(content)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to standard output: {error.strerror or error}") from error


def write_json_report(path: Path | None, document: object) -> None:
    """Write the JSON report to the path given by `--json`, if any; see `write_report`."""
    if path is not None:
        write_report(path, json_bytes(document))
