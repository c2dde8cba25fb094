"""Axes of a sweep: a recipe field and the values to train with."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from vl_lst.errors import RecipeError
from vl_lst.methods import get_method
from vl_lst.recipes.reading import parse_yaml

__all__ = [
    "BACKBONE",
    "METHOD",
    "NAMED_SECTIONS",
    "OPTIONS",
    "OPTION_FIELDS",
    "SEED",
    "Axis",
    "folder_part",
    "parse_axis",
    "parse_values",
    "safe_name",
]

METHOD = "method.name"
OPTIONS = "method.options."
BACKBONE = "backbone.name"
SEED = "training.seed"
# Fields that options of `vl-lst train` set too, so that a command shows them as options.
OPTION_FIELDS = ("task", BACKBONE, METHOD)
# Sections whose name decides the recipe that a run begins with.
NAMED_SECTIONS = ("method", "backbone")
EXAMPLE = "such as method.options.reduction=2,4,8"
# Portable names: no file system reserves these characters or treats them as equal.
UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")
MAX_PART_LENGTH = 80
DIGEST_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Axis:
    """A recipe field and its values.

    Args:
        field: Path of the field, such as `method.options.reduction`.
        values: Its values.
        method: Method to which the axis applies; `None` applies to all.
    """

    field: str
    values: tuple[Any, ...]
    method: str | None = None

    def __str__(self) -> str:
        return self.field if self.method is None else f"{self.method}:{self.field}"

    @property
    def option(self) -> str | None:
        """The option of a method that the field is; `None` for other fields."""
        return self.field.removeprefix(OPTIONS) if self.field.startswith(OPTIONS) else None


def parse_axis(text: str) -> Axis:
    """Parse `[METHOD:]FIELD=VALUE,VALUE...`, in which values are YAML.

    Raises:
        RecipeError: The text has another form, there is no such method, or a value is repeated.
    """
    left, equals, values = text.partition("=")
    method, colon, field = left.rpartition(":")
    if not equals or not all(field.split(".")):
        raise RecipeError(f"--grid {text:.80}: expected [METHOD:]FIELD=VALUE,VALUE..., {EXAMPLE}")
    if colon:
        get_method(method)
    axis = Axis(field, parse_values(values, source=f"--grid {text:.80}"), method if colon else None)
    if field == SEED:
        raise RecipeError(f"--grid {text:.80}: set the seeds with --seeds, such as --seeds 0,1,2")
    if field in NAMED_SECTIONS:
        raise RecipeError(
            f"--grid {text:.80}: set its fields one by one, such as --grid {field}.name=..., so "
            "that each run gets what its method needs"
        )
    if field in OPTION_FIELDS:
        if colon:
            raise RecipeError(f"--grid {text:.80}: {field} has one grid for all methods")
        if not all(isinstance(value, str) for value in axis.values):
            raise RecipeError(f"--grid {text:.80}: expected names; quote one that is a number")
    if colon and axis.option is not None:
        _require_option(axis, method)
    return axis


def parse_values(text: str, *, source: str) -> tuple[Any, ...]:
    """Parse comma-separated YAML values.

    Args:
        text: Values, such as `0.1,null,[0, 2]`.
        source: Option that they belong to, for messages.

    Raises:
        RecipeError: There is no value, one is not YAML, or one is repeated.
    """
    values = parse_yaml(f"[{text}]", source=source)
    if not isinstance(values, list) or not values:
        raise RecipeError(f"{source}: found no value, expected at least one, {EXAMPLE}")
    known: set[str] = set()
    for value in values:
        if (key := json.dumps(value)) in known:
            raise RecipeError(f"{source}: the value {key:.60} is repeated; give each one once")
        known.add(key)
    return tuple(values)


def _require_option(axis: Axis, method: str) -> None:
    """Refuse an option that a method does not have.

    Raises:
        RecipeError: The method has no such option.
    """
    known = get_method(method).options.model_fields
    if axis.option not in known:
        raise RecipeError(
            f"--grid {axis}: the method {method} has no option {axis.option}; expected one of: "
            f"{', '.join(known)}"
        )


def folder_part(axis: Axis, value: object, axes: Sequence[Axis]) -> str:
    """Return the name of a folder for one value of an axis, such as `reduction=4`.

    Args:
        axis: The axis.
        value: One of its values.
        axes: All axes of the run, from which the name of the field must distinguish this one.
    """
    names = [_short_name(each.field) for each in axes]
    name = _short_name(axis.field)
    return safe_name(f"{axis.field if names.count(name) > 1 else name}={_value_text(value)}")


def safe_name(text: str) -> str:
    """Return a text as the name of a folder that is valid and readable on every file system."""
    name = UNSAFE.sub("-", text).strip(".-") or "-"
    if len(name) > MAX_PART_LENGTH:
        name = f"{name[:MAX_PART_LENGTH]}-{sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]}"
    return name


def _short_name(field: str) -> str:
    """Return the last part of a field's path, such as `lr`; of a section's name, the section."""
    *sections, name = field.split(".")
    return sections[-1] if name == "name" and sections else name


def _value_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "+".join(map(_value_text, value)) or "none"
    return json.dumps(value)
