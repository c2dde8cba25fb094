"""Write a recipe as a YAML file with a comment for each field."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from vl_lst.errors import RecipeError
from vl_lst.methods import get_method
from vl_lst.recipes.descriptions import describe_fields, describe_section
from vl_lst.recipes.partial import PartialRecipe
from vl_lst.recipes.reading import parse_yaml
from vl_lst.recipes.validation import section_of

__all__ = ["commented_yaml"]

LINE_LENGTH = 100
INDENT = "  "
OPTIONS = ("method", "options")
# And characters that YAML does not allow. JSON leaves both as they are.
YAML_LINE_BREAKS = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
PLAIN_TEXT = re.compile(r"[\w./~][\w./@+-]*", re.ASCII)


def commented_yaml(recipe: PartialRecipe) -> str:
    """Return a recipe as the text of a recipe file.

    A field that is not set is a comment too, in the place where it can be set.

    Args:
        recipe: The recipe.
    """
    return "\n".join([*_section_lines(recipe.model, recipe.fields, (), recipe.missing), ""])


def _section_lines(
    model: type[BaseModel],
    fields: Mapping[str, Any],
    parents: tuple[str, ...],
    missing: Mapping[str, str],
) -> Iterator[str]:
    indent = INDENT * len(parents)
    meanings = describe_fields(model)
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        path, value = (*parents, name), fields.get(name)
        section = section_of(field)
        if path == OPTIONS and value:
            section = get_method(fields["name"]).options
        if not parents and path != ("task",):
            yield ""
        meaning = describe_section(section) if section is not None else meanings.get(name, "")
        yield from textwrap.wrap(
            meaning,
            LINE_LENGTH,
            initial_indent=f"{indent}# ",
            subsequent_indent=f"{indent}# ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        key = ".".join(path)
        if section is not None and isinstance(value, Mapping) and value:
            yield f"{indent}{name}:"
            yield from _section_lines(section, value, path, missing)
        elif key in missing:
            yield f"{indent}# {name}:  # required: {missing[key]}"
        elif value is None and (name not in fields or field.default is None):
            yield f"{indent}# {name}:"
        else:
            yield f"{indent}{name}: {_flow(value)}"


def _flow(value: object) -> str:
    """Return a value on one line of YAML, as `parse_yaml` reads it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and PLAIN_TEXT.fullmatch(value) and _reads_as_text(value):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return YAML_LINE_BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _reads_as_text(text: str) -> bool:
    """Whether YAML takes unquoted text for a string, not for a number or `null`."""
    try:
        return bool(parse_yaml(text, source="a value") == text)
    except RecipeError:
        return False
