"""Checks on the arguments of every command.

An unset shell variable leaves an empty argument behind. As a path it would mean the current folder,
so an empty argument is always refused.
"""

import inspect
import os
from collections.abc import Sequence

from typer.models import CommandInfo, ParameterInfo

__all__ = ["disable_readability_checks", "find_argument_problem"]


def find_argument_problem(arguments: Sequence[str]) -> str | None:
    """Return what is wrong with a command line, whatever its command, or `None`.

    Args:
        arguments: Arguments after the program's name.
    """
    for number, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if not (equals and option.startswith("--")):
            before = arguments[number - 1] if number else ""
            option = before if before.startswith("--") and "=" not in before else ""
            value = argument
        name = option or f"argument {number + 1}"
        if not value.strip():
            return (
                f"{name} is empty: found {value!r}, expected a value. Was a shell variable not set?"
            )
        if "\0" in value or not _is_encodable(value):
            return f"{name} is not valid text: found {value!a:.60}"
    return None


def _is_encodable(text: str) -> bool:
    """Whether the system can pass the text; undecodable bytes of a path can be passed."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def disable_readability_checks(command: CommandInfo) -> None:
    """Leave unreadable files to a command, which reports them with exit code 1.

    Typer would check paths first, outputs included, and exit with 2 (wrong usage).
    """
    assert command.callback is not None
    for parameter in inspect.signature(command.callback).parameters.values():
        for detail in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(detail, ParameterInfo):
                detail.readable = False
