"""Options that name what a command writes: checked while options are parsed, before any work.

`-` stands for standard output. A report may go there, and then what is meant for people goes to
standard error; a folder, a feature file or a picture may not.
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
    "Claim",
    "FeatureFileOption",
    "JsonOption",
    "binary_file",
    "claimed_outputs",
    "report_file",
    "write_json_report",
    "write_report",
]

STANDARD_OUTPUT = Path("-")
# Where a command's context keeps which option writes which file.
CLAIMED = "vl_lst.outputs"


@dataclass(frozen=True, slots=True)
class Claim:
    """A place that an option of the running command writes.

    Args:
        option: The option.
        place: The path, with symbolic links followed; `-` is standard output.
        is_report: Whether it is a file that the command layer itself writes.
        is_text: Whether that file is text.
        may_be_input: Whether it may be a file that the command reads.
        holds_run: Whether it is the folder of a run.
        holds: Names in it that the command writes, if it is another folder.
    """

    option: str
    place: str
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
        OutputError: It cannot be written, or another option of the command writes it.
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
    what: str,
    *,
    is_checked: bool = True,
    may_be_input: bool = False,
    holds_run: bool = False,
    holds: Collection[str] = (),
) -> Callback:
    """Return the callback of an option whose file or folder cannot be standard output.

    Args:
        what: What it holds, for the message ("a feature file").
        is_checked: Whether the path is checked as a file; not so where the command itself does it.
        may_be_input: Whether it may be a file that the command reads.
        holds_run: Whether it is the folder of a run.
        holds: Names in it that the command writes, if it is another folder.
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


def claimed_outputs(context: typer.Context) -> list[Claim]:
    """Return what the running command writes besides standard output."""
    claimed: dict[str, Claim] = context.meta.get(CLAIMED, {})
    return [claim for claim in claimed.values() if claim.place != str(STANDARD_OUTPUT)]


def _claim(
    context: typer.Context, parameter: typer.CallbackParam, path: Path, **properties: Any
) -> None:
    """Note that an option writes `path`.

    Raises:
        OutputError: Another option of the command writes it as well.
    """
    claimed: dict[str, Claim] = context.meta.setdefault(CLAIMED, {})
    option = parameter.opts[0]
    place = str(path) if path == STANDARD_OUTPUT else os.path.realpath(path)
    if place in claimed:
        shown = "standard output" if path == STANDARD_OUTPUT else place
        raise OutputError(
            f"{claimed[place].option} and {option} both write {shown}. Choose another place for "
            "one of them."
        )
    claimed[place] = Claim(option, place, **properties)


FeatureFileOption = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="FILE.h5",
        help="Feature file to make, or to finish.",
        callback=binary_file("a feature file", is_checked=False),
    ),
]
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
    """Write a report where `report_file` allowed it; complain if it cannot be written.

    The command continues, so that its other outputs and messages are not lost, and ends with 1.

    Returns:
        Whether it was written.
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
        # What stands in for standard output may take texts only.
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
    """Write what `--json` asks for, if anything; see `write_report`."""
    if path is not None:
        write_report(path, json_bytes(document))
