"""What each field of a recipe means: the argument lists of the docstrings in `schema.py`."""

import inspect
import re
from collections.abc import Mapping

from pydantic import BaseModel

__all__ = ["describe_fields", "describe_section"]

HEADING = "Args:"
ENTRY = re.compile(r"(\w+): (.*)")
INDENT = 4


def describe_section(model: type[BaseModel]) -> str:
    """Return what a section of a recipe is: the first paragraph of its docstring."""
    text = inspect.cleandoc(model.__doc__ or "")
    return " ".join(text.partition("\n\n")[0].split())


def describe_fields(model: type[BaseModel]) -> Mapping[str, str]:
    """Return what each field of a section means, also of those that it inherits.

    Args:
        model: Type of the section, whose docstring lists the fields under `Args:`.
    """
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if issubclass(kind, BaseModel) and kind is not BaseModel:
            found |= _arguments(inspect.cleandoc(kind.__doc__ or ""))
    return {name: text for name, text in found.items() if name in model.model_fields}


def _arguments(docstring: str) -> dict[str, str]:
    """Return the argument list of a docstring in Google style."""
    lines = iter(docstring.splitlines())
    for line in lines:
        if line == HEADING:
            break
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        if line and not line.startswith(" "):  # the next heading
            break
        indent = len(line) - len(line.lstrip())
        entry = ENTRY.fullmatch(line.strip()) if indent == INDENT else None
        if entry is not None:
            name, text = entry.groups()
            found[name] = text
        elif name:
            found[name] += f" {line.strip()}"
    # As YAML and JSON write it.
    return {
        name: " ".join(text.split()).replace("`None`", "`null`") for name, text in found.items()
    }
