"""Page of the docs site with every command, argument and option, from the Typer application."""

import re
from collections.abc import Iterator
from typing import Any

import typer

from vl_lst.cli import COMMANDS, build_app

__all__ = ["command_line_page"]

WIDTH, CONTINUATION = 84, " \\\n    "
# What stands after an argument that takes several values.
TYPE = re.compile(r"<list\[\w+\]>$")
# A line of a command's help such as `Text alone: vl-lst train --task rte`.
EXAMPLE = re.compile(r"(?P<title>[^`:]+): (?P<command>vl-lst .+)")


def command_line_page() -> str:
    """Return the page in Markdown."""
    application: Any = typer.main.get_command(build_app(COMMANDS))
    return "\n".join(["# Command line", "", *_group(application, "vl-lst", level=2)])


def _group(group: Any, name: str, *, level: int) -> Iterator[str]:
    """Yield the lines of a group: its own, then those of its commands."""
    context = typer.Context(group, info_name=name)
    yield from _help(group.help)
    yield from _options(group, context)
    for each, command in group.commands.items():
        full_name = f"{name} {each}"
        yield from (f"{'#' * level} `{full_name}`", "")
        if hasattr(command, "commands"):
            yield from _group(command, full_name, level=level + 1)
        else:
            yield from _help(command.help)
            yield from _options(command, typer.Context(command, info_name=full_name))


def _help(text: str | None) -> Iterator[str]:
    """Yield the paragraphs of a help text, with examples as code."""
    for paragraph in (text or "").replace("\b", "").split("\n\n"):
        paragraph = " ".join(paragraph.split())
        if match := EXAMPLE.fullmatch(paragraph):
            yield from (f"{match['title']}:", "", "```", _folded(match["command"]), "```", "")
        else:
            yield from (paragraph, "")


def _folded(command: str) -> str:
    """Return a command with its options on as many lines as they need."""
    first, *options = re.split(r" (?=--)", command)
    lines = [first]
    for option in options:
        if len(lines[-1]) + 1 + len(option) > WIDTH:
            lines.append(option)
        else:
            lines[-1] += f" {option}"
    return CONTINUATION.join(lines)


def _options(command: Any, context: typer.Context) -> Iterator[str]:
    """Yield a table of the arguments and options of a command."""
    records = [
        record
        for parameter in command.get_params(context)
        if not getattr(parameter, "hidden", False)
        and (record := parameter.get_help_record(context)) is not None
    ]
    yield from ("| argument or option | meaning |", "|---|---|")
    for names, meaning in records:
        cells = (_names(names), _text(meaning))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _names(record: str) -> str:
    """Return the names of an option, and what it takes, as code that wraps between them."""
    name, _, value = record.partition(" ")
    value = TYPE.sub("...", value)
    return f"`{name}{value}`" if value == "..." else f"`{name}` `{value}`" if value else f"`{name}`"


def _text(meaning: str) -> str:
    """Return the text of an option with its default as code, in which `<` is no tag."""
    meaning = " ".join(meaning.split())
    parts = meaning.split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", r"\*") for part in parts[::2]]
    return re.sub(r"\[([^\]`]*)\]$", r"**(\1)**", "`".join(parts))
