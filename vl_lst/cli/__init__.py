"""The command line `vl-lst COMMAND`, with one file per command.

Exit codes: 0 for success, 1 for a problem with the user's input or machine, 2 for wrong usage, 75
for training that a signal stopped after a checkpoint, 130 for an interruption.

Only the module of the given command is imported, and a command imports what it needs inside its
function, so that help is shown at once and `vl-lst score` never loads torch.
"""

import builtins
import importlib
import inspect
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from typing import Annotated

import typer
from typer.models import CommandInfo

from vl_lst import __version__
from vl_lst.cli._arguments import disable_readability_checks, find_argument_problem
from vl_lst.cli._console import complain, explain, prepare_streams, results, status
from vl_lst.cli._group import CommandGroup
from vl_lst.cli._input_protection import protect_inputs
from vl_lst.cli._signals import stopped_by_signals
from vl_lst.errors import EXPLAINED_ERRORS, Preempted

__all__ = ["COMMANDS", "build_app", "main"]

WRONG_USAGE = 2
INTERRUPTED = 130
# Variable with which a shell asks for completions.
COMPLETION = "_VL_LST_COMPLETE"
# EX_TEMPFAIL of sysexits.h: the same command, run again, continues.
PREEMPTED = 75
CONTINUABLE_COMMANDS = {"train", "sweep"}

# Panels of the help text.
MODELS, COMPARISONS, DATA = "Train and evaluate", "Compare", "Data and features"
REFERENCE = "Choices and recipes"
# The panel of each command, in the order of the help text. The command or group `two-words` is the
# function or Typer `two_words` of the module `vl_lst.cli.two_words`; see `_module_name`.
COMMANDS = {
    "demo": MODELS,
    "train": MODELS,
    "evaluate": MODELS,
    "predict": MODELS,
    "score": MODELS,
    "push": MODELS,
    "profile": COMPARISONS,
    "sweep": COMPARISONS,
    "leaderboard": COMPARISONS,
    "compare": COMPARISONS,
    "extract-features": DATA,
    "extract-states": DATA,
    "join-states": DATA,
    "features": DATA,
    "data": DATA,
    "list": REFERENCE,
    "recipe": REFERENCE,
}


def build_app(names: Iterable[str]) -> typer.Typer:
    """Return the command line with the given commands and groups.

    Args:
        names: Commands and groups to import; the others do not exist in what is returned.
    """
    app = typer.Typer(
        name="vl-lst",
        cls=CommandGroup,
        help="Fine-tune a frozen language model on vision-and-language tasks with little memory, "
        "and compare methods for doing so.\n\n"
        "Try it without any data: vl-lst demo\n\n"
        "Every command has an example: vl-lst train --help",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback()(options)
    for name in names:
        attribute = _module_name(name)
        command = getattr(importlib.import_module(f"{__name__}.{attribute}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, rich_help_panel=COMMANDS[name])
        else:
            app.command(name, rich_help_panel=COMMANDS[name])(command)
    for each in _all_commands(app):
        disable_readability_checks(each)
        protect_inputs(each)
        _unwrap_help(each)
    return app


def _module_name(command: str) -> str:
    """Return the name of a command's module, and of its function or Typer."""
    name = command.replace("-", "_")
    # A submodule `list` would hide Python's own name in this file.
    return f"{name}_" if hasattr(builtins, name) else name


def _print_version(is_asked: bool) -> None:
    if is_asked:
        results.print(f"vl-lst {__version__}", markup=False)
        raise typer.Exit


def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Declare the options that belong to no command."""


def _all_commands(group: typer.Typer) -> Iterator[CommandInfo]:
    yield from group.registered_commands
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            yield from _all_commands(inner.typer_instance)


def _unwrap_help(command: CommandInfo) -> None:
    """Join the lines of each paragraph of the help text, which Typer would print as they are."""
    text = inspect.getdoc(command.callback) or ""
    command.help = "\n\n".join(" ".join(each.split()) for each in text.split("\n\n"))


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
        # No message is needed if the reader of standard output, such as `head`, closed it, or if
        # only a report went there, whose failure was already printed.
        if not isinstance(error, BrokenPipeError) and not results.has_unwritten_report:
            complain(f"cannot write to standard output: {error.strerror or error}")
        _discard_standard_output()
        return 1
    return code or int(results.has_unwritten_report)


def _run(arguments: list[str]) -> int:
    if (problem := find_argument_problem(arguments)) is not None:
        complain(problem)
        return WRONG_USAGE
    given = arguments[:1] or _completed_command()
    try:
        # Without a command, or with an unknown one, the help or the message lists all of them.
        app = build_app(given if COMMANDS.keys() & given else COMMANDS)
        with stopped_by_signals() if CONTINUABLE_COMMANDS & set(given) else nullcontext():
            app(args=arguments, prog_name="vl-lst")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code == INTERRUPTED:
            status.print("interrupted")
        return code
    except KeyboardInterrupt:
        status.print("interrupted")
        return INTERRUPTED
    except Preempted as stopped:
        status.print(
            f"{stopped}. Run the same command again to resume; `train` requires --resume.",
            markup=False,
        )
        return PREEMPTED
    except BrokenPipeError:
        raise
    except EXPLAINED_ERRORS as error:
        complain(explain(error))
        return 1
    return 0


def _completed_command() -> list[str]:
    """Return the command of the line that a shell asks to complete, if there is one."""
    # Bash has its own variable, other shells that of Typer's scripts.
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    return line.split()[1:2] if COMPLETION in os.environ else []


def _discard_standard_output() -> None:
    """Discard buffered output, which the interpreter would flush again at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
