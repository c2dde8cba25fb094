"""All commands of `vl-lst`, as Typer builds them."""

from collections.abc import Iterator
from typing import Any

import typer

from vl_lst import cli


def leaf_commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield commands that are not groups, with their names, such as "features join"."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaf_commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


PROGRAM = typer.main.get_command(cli.build_app(cli.COMMANDS))
COMMANDS: dict[str, Any] = dict(leaf_commands(PROGRAM))
# Options of `vl-lst` itself.
PROGRAM_OPTIONS = {flag for each in PROGRAM.params for flag in each.opts} | {"--help"}


def option_names(name: str) -> set[str]:
    """The options of a command, such as "--json"."""
    options = {flag for each in COMMANDS[name].params for flag in each.opts}
    return {flag for flag in options if flag.startswith("--")} | {"--help"}
