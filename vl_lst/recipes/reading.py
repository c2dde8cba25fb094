"""Read recipe files: strict YAML that also accepts numbers such as 1e-3."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from eval.errors import InputError
from eval.files import open_text
from eval.recipe_fields import get_field
from eval.text import did_you_mean, is_utf8
from vl_lst.bundled import BACKBONE_FOLDERS, DEMO, bundled_recipes, recipe_path
from vl_lst.errors import RecipeError
from vl_lst.recipes.fields import clear_alternatives

__all__ = ["EXTENDS", "default_recipe", "parse_yaml", "read_recipe_file"]

DEFAULT = "lst"
EXTENDS = "extends"
METHOD = "method"
TAGS = "tag:yaml.org,2002:"
PLAIN = ("null", "seq", "map")
MEANT_AS_TEXT = (f"{TAGS}timestamp", f"{TAGS}value")
# No field needs a larger one, and JSON cannot represent some that YAML can.
MAX_NUMBER = 1e300
MAX_BYTES = 1 << 24
# YAML 1.1 reads 1e-3 and 2E5 as text, since they have no decimal point.
FLOAT_WITHOUT_POINT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")


class _Loader(yaml.SafeLoader):
    """Loader of the part of YAML that JSON has too: unique keys of type string, no aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(
                problem="an alias (*name) is not allowed here",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag != f"{TAGS}str":
                raise _error(f"a key must be a string, found {_describe(key)}", key)
            if key.value in seen:
                raise _error(f"the key {key.value!r:.60} occurs twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_plain_scalar(self, node: Any) -> Any:
        """Construct a number or a boolean; an explicit tag may claim any text to be one."""
        try:
            value = yaml.SafeLoader.yaml_constructors[node.tag](self, node)
        except (ArithmeticError, LookupError, ValueError):
            raise _error(f"{node.value!r:.40} cannot be read as {_kind(node)}", node) from None
        if not isinstance(value, bool) and not abs(value) <= MAX_NUMBER:
            raise _error(f"{node.value!r:.40} is out of range, expected a finite number", node)
        return value

    def construct_text(self, node: Any) -> str:
        """Construct a string that can be encoded as UTF-8."""
        text: str = self.construct_scalar(node)
        if not is_utf8(text):
            raise _error(f"{text!a:.40} is not valid Unicode", node)
        return text

    def construct_undefined(self, node: Any) -> Any:
        """Refuse dates, bytes, sets and objects, which no field accepts."""
        raise _error(
            f"{_describe(node)} is not allowed here, expected strings, numbers, lists and mappings",
            node,
        )


def _error(text: str, node: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(problem=text, problem_mark=node.start_mark)


def _describe(node: Any) -> str:
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
# Dates and `=` are plain strings.
_Loader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in resolvers if tag not in MEANT_AS_TEXT]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{TAGS}float", FLOAT_WITHOUT_POINT, list("-+0123456789"))


def parse_yaml(text: str, *, source: str) -> Any:
    """Parse YAML.

    Args:
        text: YAML document.
        source: Name of its file or option, for messages.

    Raises:
        RecipeError: The text is not valid YAML.
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


def default_recipe(method: str | None, backbone: str | None) -> str:
    """Return the name of the bundled recipe for a method and a backbone.

    Args:
        method: Name of the method; one without its own recipe gets that of the ladder.
        backbone: Name of the backbone. The bundled ones have their own recipes, all others share
            the paper's.
    """
    is_demo = backbone in BACKBONE_FOLDERS
    wanted = f"{DEMO}-{method}" if is_demo else method
    default = DEMO if is_demo else DEFAULT
    return wanted if wanted is not None and wanted in bundled_recipes() else default


def read_recipe_file(name: str | Path) -> dict[str, Any]:
    """Read a recipe without validating its fields.

    A file with `extends: NAME` contains only the differences from the bundled recipe of that name.

    Args:
        name: Path of a file, or name of a bundled recipe such as `lst`.

    Raises:
        RecipeError: There is no such recipe, or it is not a YAML mapping.
    """
    path = Path(name)
    if str(name) in bundled_recipes() and not path.is_file():
        text = recipe_path(str(name)).read_text(encoding="utf-8")
    elif path.exists():
        try:
            with open_text(path, expected="a recipe (YAML)", max_bytes=MAX_BYTES) as file:
                text = file.read()
        except InputError as error:
            raise RecipeError(str(error)) from None
    else:
        raise RecipeError(
            f"no recipe {str(name)!r}: expected a YAML file, or one of the bundled recipes: "
            f"{', '.join(bundled_recipes())}{did_you_mean(str(name), bundled_recipes())}"
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
    if not isinstance(base, str) or base not in bundled_recipes() or base == str(name):
        raise RecipeError(
            f"{name}: {EXTENDS}: found {base!r:.80}; expected another of the bundled recipes: "
            f"{', '.join(bundled_recipes())}"
        )
    extended = _extend(read_recipe_file(base), recipe)
    clear_alternatives(extended, lambda path: get_field(recipe, path))
    return extended


def _extend(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe with some fields changed; the `method` section is replaced as a whole."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and key != METHOD
        merged[key] = _extend(base[key], value) if both else value
    return merged
