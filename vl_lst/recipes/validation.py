"""Validate the fields of a recipe, and explain what is wrong with them."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from eval.text import did_you_mean
from vl_lst.errors import RecipeError
from vl_lst.option_names import advice

__all__ = ["find_problems", "invalid_recipe", "section_of", "validate_section"]

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]

MAX_PROBLEMS_SHOWN = 5


def validate_section(model: type[Model], fields: Any, prefix: Location = ()) -> Model:
    """Return the typed fields of a recipe or of one of its sections.

    Args:
        model: Its type.
        fields: Its fields.
        prefix: Path of the section, for messages.

    Raises:
        RecipeError: A field is unknown, missing or out of range.
    """
    found, details = find_problems(model, fields)
    if found is None:
        raise invalid_recipe(model, details, prefix)
    return found


def find_problems(model: type[Model], fields: Any) -> tuple[Model | None, list[ErrorDetails]]:
    """Return the typed fields of a recipe, `None` if they are not valid, and what is wrong."""
    try:
        # Strict validation of JSON still accepts lists as tuples and strings as paths.
        return model.model_validate_json(json.dumps(fields, default=str), strict=True), []
    except ValidationError as error:
        return None, error.errors(include_url=False, include_context=True)


def invalid_recipe(
    model: type[BaseModel], details: Sequence[ErrorDetails], prefix: Location = ()
) -> RecipeError:
    """Return the error that explains what is wrong with a recipe or with one of its sections.

    Args:
        model: Type of the section.
        details: What is wrong; see `find_problems`.
        prefix: Path of the section.
    """
    lines = [_explain(model, detail, prefix) for detail in details[:MAX_PROBLEMS_SHOWN]]
    if len(details) > MAX_PROBLEMS_SHOWN:
        lines.append(f"... and {len(details) - MAX_PROBLEMS_SHOWN} more")
    return RecipeError("the recipe is not valid:\n" + "\n".join(f"  {line}" for line in lines))


def _explain(model: type[BaseModel], detail: ErrorDetails, prefix: Location) -> str:
    location = detail["loc"]
    path = ".".join(str(part) for part in (*prefix, *location)) or "recipe"
    if detail["type"] == "extra_forbidden":
        return f"{path}: no such field{_suggestion(model, location, prefix)}"
    if detail["type"] == "json_invalid":
        return "a string in it is not valid Unicode; rename files whose names are not UTF-8"
    if detail["type"] == "missing":
        return f"{path}: missing; set it in the recipe or with {advice(path)}"
    message = detail["msg"].removeprefix("Value error, ")
    expected = message.replace("Input should be", "expected", 1)
    if detail["type"] == "too_short":
        expected = f"expected a list of at least {detail['ctx']['min_length']}"
    if isinstance(detail["input"], dict):
        return f"{path}: {expected}"
    return f"{path}: found {json.dumps(detail['input'], default=str):.80}; {expected}"


def _suggestion(model: type[BaseModel], location: Location, prefix: Location) -> str:
    *parents, unknown = (str(part) for part in location)
    known = list(_field_paths(model))
    siblings = [path[-1] for path in known if list(path[:-1]) == parents]
    section = "".join(f"{part}." for part in (*prefix, *parents))
    if suggestion := did_you_mean(unknown, siblings, prefix=section, limit=1):
        return suggestion
    same_name = [path for path in known if path[-1] == unknown]
    if same_name:
        return f"; did you mean {'.'.join([*map(str, prefix), *same_name[0]])}?"
    return f"; expected one of: {', '.join(siblings)}"


def _field_paths(
    model: type[BaseModel], parents: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Yield the path of each field and of each section.

    Args:
        model: Type of the recipe, or of a section.
        parents: Path of the section.
    """
    for name, field in model.model_fields.items():
        yield (*parents, name)
        if (section := section_of(field)) is not None:
            yield from _field_paths(section, (*parents, name))


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the type of a field that is a section, or a section that may be null; else `None`."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None
