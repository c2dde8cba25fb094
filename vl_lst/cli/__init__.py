"""The command line: `vl-lst COMMAND`, one file per command.

Exit codes: 0 success, 1 a problem with what the user gave or has, 2 wrong usage, 130 interrupted.
Commands import what they need inside their function, so that `vl-lst score` never loads torch.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from vl_lst import __version__
from vl_lst.cli._arguments import find_argument_problem
from vl_lst.cli._console import complain, explain, prepare_streams, results, status
from vl_lst.cli._kept_inputs import keep_inputs
from vl_lst.cli._paths import leave_reading_to_commands
from vl_lst.cli.data import data
from vl_lst.cli.demo import demo
from vl_lst.cli.evaluate import evaluate
from vl_lst.cli.extract_features import extract_features
from vl_lst.cli.features import features
from vl_lst.cli.leaderboard import leaderboard
from vl_lst.cli.predict import predict
from vl_lst.cli.profile import profile
from vl_lst.cli.score import score
from vl_lst.cli.train import train
from vl_lst.errors import EXPLAINED_ERRORS

__all__ = ["app", "main"]

WRONG_USAGE = 2
INTERRUPTED = 130

app = typer.Typer(
    name="vl-lst",
    help="Memory-efficient fine-tuning of a frozen CLIP-T5 on vision-and-language tasks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        results.print(f"vl-lst {__version__}", markup=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


for command in (
    demo,
    extract_features,
    train,
    evaluate,
    score,
    predict,
    profile,
    leaderboard,
):
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(data)
app.add_typer(features)
leave_reading_to_commands(app)
keep_inputs(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: Arguments after the program's name; `None` takes them from `sys.argv`.
    """
    prepare_streams()
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        if results.failure is not None and not results.stderr:
            raise results.failure
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # No word is needed when what reads standard output, such as `head`, has read enough, or
        # where only a report went there, of whose failure there was one.
        if not isinstance(error, BrokenPipeError) and not results.has_unwritten_report:
            complain(f"cannot write to standard output: {error.strerror or error}")
        _discard_standard_output()
        return 1
    return code or int(results.has_unwritten_report)


def _run(arguments: list[str]) -> int:
    if (problem := find_argument_problem(arguments)) is not None:
        complain(problem)
        return WRONG_USAGE
    try:
        app(args=arguments, prog_name="vl-lst")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code == INTERRUPTED:
            status.print("interrupted")
        return code
    except KeyboardInterrupt:
        status.print("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except EXPLAINED_ERRORS as error:
        complain(explain(error))
        return 1
    return 0


def _discard_standard_output() -> None:
    """Discard what is still in the buffer, which the interpreter flushes once more at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
