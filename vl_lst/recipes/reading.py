"""Reading recipe files: YAML, but with numbers as people write them and without surprises."""

import re
from collections.abc import Hashable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from eval.errors import InputError
from eval.files import open_text
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
TAGS = "tag:yaml.org,2002:"
PLAIN = ("null", "seq", "map")
MEANT_AS_TEXT = (f"{TAGS}timestamp", f"{TAGS}value")
# No field takes a larger one, and JSON could not hold some that YAML writes in other bases.
LARGEST_NUMBER = 1e300
MAX_BYTES = 1 << 24
POINTLESS_FLOAT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")


class _Loader(yaml.SafeLoader):
    """Safe YAML of what JSON has too: each key a text that stands once, and no references."""

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
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag != f"{TAGS}str":
                raise _problem(f"a key must be a text, found {_described(key)}", key)
            if key.value in seen:
                raise _problem(f"the key {key.value!r:.60} occurs twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_plain_scalar(self, node: Any) -> Any:
        """Construct a number or a truth value that a tag may claim for any text."""
        try:
            value = yaml.SafeLoader.yaml_constructors[node.tag](self, node)
        except (ArithmeticError, LookupError, ValueError):
            raise _problem(f"{node.value!r:.40} cannot be read as {_kind(node)}", node) from None
        if not isinstance(value, bool) and not abs(value) <= LARGEST_NUMBER:
            raise _problem(f"{node.value!r:.40} is out of range, expected a finite number", node)
        return value

    def construct_text(self, node: Any) -> str:
        """Construct a text that can be written as UTF-8."""
        text: str = self.construct_scalar(node)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _problem(f"{text!a:.40} is not valid Unicode", node) from None
        return text

    def construct_undefined(self, node: Any) -> Any:
        """Refuse dates, bytes, sets and objects, which no field takes."""
        raise _problem(
            f"{_described(node)} is not allowed here, expected texts, numbers, lists and mappings",
            node,
        )


def _problem(text: str, node: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(problem=text, problem_mark=node.start_mark)


def _described(node: Any) -> str:
    content = f" {node.value!r:.40}" if isinstance(node, yaml.ScalarNode) else ""
    return f"{_kind(node)}{content}"


def _kind(node: Any) -> str:
    return str(node.tag).removeprefix(TAGS)


_Loader.yaml_constructors = {
    **{f"{TAGS}{name}": yaml.SafeLoader.yaml_constructors[f"{TAGS}{name}"] for name in PLAIN},
    **{f"{TAGS}{name}": _Loader.construct_plain_scalar for name in ("bool", "float", "int")},
    f"{TAGS}str": _Loader.construct_text,
    None: _Loader.construct_undefined,
}
# Dates and equals signs are texts like others.
_Loader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in resolvers if tag not in MEANT_AS_TEXT]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{TAGS}float", POINTLESS_FLOAT, list("-+0123456789"))


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
    if str(name) in shipped_recipes() and not path.is_file():
        text = (resources.files(__package__) / f"{name}{SUFFIX}").read_text(encoding="utf-8")
    elif path.exists():
        try:
            with open_text(path, expected="a recipe (YAML)", max_bytes=MAX_BYTES) as file:
                text = file.read()
        except InputError as error:
            raise RecipeError(str(error)) from None
    else:
        raise RecipeError(
            f"no recipe {str(name)!r}: expected a YAML file, or one of the recipes that come "
            f"with the package: {', '.join(shipped_recipes())}"
        )
    recipe = parse_yaml(text, source=str(name))
    if not isinstance(recipe, dict):
        raise RecipeError(
            f"{name}: expected a mapping with sections such as `optimizer:`, found "
            f"{'nothing' if recipe is None else type(recipe).__name__}"
        )
    if EXTENDS not in recipe:
        return recipe
    base = recipe.pop(EXTENDS)
    if not isinstance(base, str) or base not in shipped_recipes() or base == str(name):
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
