"""Shortcuts for tests: a recipe resolved with overrides as `--set` takes them."""

from pathlib import Path
from typing import Any

import pytest

from vl_lst.errors import RecipeError
from vl_lst.recipes import Recipe, parse_override, read_recipe_file, resolve_recipe

GIVEN: list[tuple[str, Any]] = [
    ("task", "vqa"),
    ("data.root", "data"),
    ("features", ["train.h5"]),
    ("backbone.name", "demo"),
]


# The same for a recipe of GLUE.
GIVEN_TEXT: list[tuple[str, Any]] = [("task", "rte"), ("data.root", "data")]


def resolve(name: str | Path = "lst", *overrides: str) -> Recipe:
    return resolve_recipe(read_recipe_file(name), [*GIVEN, *map(parse_override, overrides)])


def resolve_text(name: str | Path, *overrides: str) -> Recipe:
    """Resolve a recipe for RTE."""
    return resolve_recipe(read_recipe_file(name), [*GIVEN_TEXT, *map(parse_override, overrides)])


def refusal(*overrides: str) -> str:
    """Return the message with which overrides of the recipe `lst` are refused."""
    with pytest.raises(RecipeError) as caught:
        resolve("lst", *overrides)
    return str(caught.value)
