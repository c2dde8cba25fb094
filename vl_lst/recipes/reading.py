"""Reading recipe files: YAML, but with numbers as people write them and without surprises."""

import re
from collections.abc import Hashable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from vl_lst.errors import RecipeError
from vl_lst.recipes.fields import clear_other_length, dig

__all__ = ["fitting_recipe", "parse_yaml", "read_recipe_file", "shipped_recipes"]

SUFFIX = ".yaml"
DEFAULT = "lst"
# The paper's settings are for T5-base; the small backbone that comes along has its own.
DEMO = "demo"
EXTENDS = "extends"
METHOD = "method"
# YAML 1.1 reads 1e-3 and 2E5 as text, since they lack a point.
POINTLESS_FLOAT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key may stand once, and nothing refers to something else."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(
                problem="a reference (*name) to another part is not allowed here",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} stands here twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", POINTLESS_FLOAT, list("-+0123456789"))


def parse_yaml(text: str, *, source: str) -> Any:
    """Parse YAML.

    Args:
        text: The YAML.
        source: Where it is from, for messages.

    Raises:
        RecipeError: It is not valid YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise RecipeError(f"{source}{where}: not valid YAML: {problem}") from None
    except (RecursionError, ValueError) as error:
        raise RecipeError(f"{source}: not valid YAML: {error}") from None


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files(__package__)
    return sorted(
        entry.name.removesuffix(SUFFIX) for entry in folder.iterdir() if entry.name.endswith(SUFFIX)
    )


def fitting_recipe(method: str | None, backbone: str | None) -> str:
    """Name of the shipped recipe for a method on a backbone.

    Args:
        method: Name of the method; one without a recipe of its own gets that of the ladder.
        backbone: `demo` has its own recipes, all other backbones share the paper's.
    """
    small = backbone == DEMO
    wanted = f"{DEMO}-{method}" if small else method
    default = DEMO if small else DEFAULT
    return wanted if wanted is not None and wanted in shipped_recipes() else default


def read_recipe_file(name: str | Path) -> dict[str, Any]:
    """Read a recipe, not yet validated.

    With `extends: NAME` it holds only what differs from the shipped recipe of that name.

    Args:
        name: A file, or the name of a shipped recipe such as `lst`.

    Raises:
        RecipeError: There is no such recipe, or it is not a YAML mapping.
    """
    path = Path(name)
    try:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
        elif str(name) in shipped_recipes():
            text = (resources.files(__package__) / f"{name}{SUFFIX}").read_text(encoding="utf-8")
        else:
            raise RecipeError(
                f"no recipe {str(name)!r}: expected a YAML file, or one of the recipes that come "
                f"with the package: {', '.join(shipped_recipes())}"
            )
    except UnicodeDecodeError as error:
        raise RecipeError(f"{name}: byte {error.start} is not UTF-8; expected YAML text") from None
    recipe = parse_yaml(text, source=str(name))
    if not isinstance(recipe, dict):
        raise RecipeError(
            f"{name}: expected a mapping with sections such as `optimizer:`, found "
            f"{type(recipe).__name__}"
        )
    if EXTENDS not in recipe:
        return recipe
    base = recipe.pop(EXTENDS)
    if base not in shipped_recipes() or base == str(name):
        raise RecipeError(
            f"{name}: {EXTENDS}: found {base!r:.80}; expected another of the recipes that come "
            f"with the package: {', '.join(shipped_recipes())}"
        )
    extended = _extended(read_recipe_file(base), recipe)
    clear_other_length(extended, lambda path: dig(recipe, path))
    return extended


def _extended(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The base with some fields changed; a method takes the place of the other as a whole."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and key != METHOD
        merged[key] = _extended(base[key], value) if both else value
    return merged
