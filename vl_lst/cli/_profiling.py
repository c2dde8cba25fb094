"""What `vl-lst profile` is asked to compare, from its flags and a recipe."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from vl_lst.errors import RecipeError

if TYPE_CHECKING:
    from vl_lst.profiling.measure import Contender

__all__ = ["one_of", "read_contenders", "read_profile_recipe"]

# What the others are compared with, where nobody says otherwise.
FIRST = "lst"
ALL = "all"
RECIPE_FIELDS: Mapping[str, Mapping[str, type]] = {
    "backbone": {"name": str, "precision": str},
    "visual": {"pooled_grid": int},
    "method": {"name": str, "options": dict},
    "training": {"precision": str},
}
KIND_NAMES = {str: "a text", int: "a whole number above zero", dict: "a mapping"}
Choice = TypeVar("Choice", bound=str)


def read_profile_recipe(name: str | None) -> dict[str, Any]:
    """Read a recipe, which need not be whole, and check the fields that a profile takes from it.

    Args:
        name: A file or a shipped recipe; `None` is an empty recipe.

    Raises:
        RecipeError: There is no such recipe, or a field has a wrong type.
    """
    from vl_lst.recipes import read_recipe_file

    recipe = {} if name is None else read_recipe_file(name)
    for section, fields in RECIPE_FIELDS.items():
        found = recipe.get(section)
        if found is None:
            continue
        _require_kind(name, section, found, dict)
        for field, kind in fields.items():
            if found.get(field) is not None:
                _require_kind(name, f"{section}.{field}", found[field], kind)
    return recipe


def _require_kind(recipe: str | None, field: str, value: object, kind: type) -> None:
    # Not isinstance, because bool is a subclass of int.
    if type(value) is not kind or (isinstance(value, int) and value < 1):
        raise RecipeError(f"{recipe}: {field}: found {value!r:.80}; expected {KIND_NAMES[kind]}")


def one_of(name: str, value: object, choices: Sequence[Choice]) -> Choice:
    """The choice that `value` is.

    Raises:
        RecipeError: It is none of them.
    """
    for choice in choices:
        if value == choice:
            return choice
    raise RecipeError(f"{name}: found {value!r:.80}; expected one of {', '.join(choices)}")


def read_contenders(
    methods: str | None,
    recipe: Mapping[str, Any],
    settings: Sequence[str],
    *,
    source: str | None,
    backbone: str,
) -> "list[Contender]":
    """The methods to compare, each with the settings that `vl-lst train` would take.

    Args:
        methods: Names with commas between, or `all`; `None`: the recipe's, or all there are.
        recipe: As read from a file, with its method and that method's options; may be empty.
        settings: `METHOD.OPTION=VALUE`, which wins over the recipe.
        source: What the recipe was read from; `None` where there is none.
        backbone: Decides which bundled recipes fit the other methods.

    Raises:
        RecipeError: There is no such method, it stands there twice, or a setting is for another.
    """
    from eval.recipe_fields import get_field
    from vl_lst.methods import get_method, method_names
    from vl_lst.profiling.measure import Contender
    from vl_lst.recipes import default_recipe, parse_override, read_recipe_file
    from vl_lst.recipes.fields import set_field

    own = get_field(recipe, ("method", "name"))
    if methods is None:
        methods = own or ALL
    names = (
        sorted(method_names(), key=lambda name: name != FIRST)
        if methods == ALL
        else [name.strip() for name in methods.split(",")]
    )
    if len(set(names)) < len(names):
        raise RecipeError(f"the methods {', '.join(names)} hold one twice; name each once")
    options: dict[str, dict[str, Any]] = {}
    sources: dict[str, str | None] = {}
    for name in names:
        get_method(name)
        sources[name] = source if name == own else default_recipe(name, backbone)
        fields = recipe if name == own else read_recipe_file(str(sources[name]))
        # A method without a recipe of its own trains by the ladder's, with its own defaults.
        if get_field(fields, ("method", "name")) != name:
            sources[name], fields = None, {}
        options[name] = dict(get_field(fields, ("method", "options")) or {})
    for setting in settings:
        path, value = parse_override(setting)
        method, *place = path.split(".")
        if method not in options or not place:
            raise RecipeError(
                f"--set {setting}: expected METHOD.OPTION=VALUE with one of the methods "
                f"{', '.join(names)}, such as --set {names[0]}.OPTION=VALUE"
            )
        set_field(options[method], place, value)
    return [Contender(name, chosen, sources[name]) for name, chosen in options.items()]
