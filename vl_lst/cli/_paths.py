"""Paths among the arguments of commands."""

import inspect

import typer
from typer.models import ParameterInfo

__all__ = ["leave_reading_to_commands"]


def leave_reading_to_commands(app: typer.Typer) -> None:
    """Let commands meet files that may not be read, and say so, with exit code 1.

    By default Typer looks first, and calls it wrong usage, also of outputs.

    Args:
        app: The commands and groups of commands, all registered.
    """
    for command in app.registered_commands:
        if command.callback is not None:
            for parameter in inspect.signature(command.callback).parameters.values():
                for detail in getattr(parameter.annotation, "__metadata__", ()):
                    if isinstance(detail, ParameterInfo):
                        detail.readable = False
    for group in app.registered_groups:
        if group.typer_instance is not None:
            leave_reading_to_commands(group.typer_instance)
