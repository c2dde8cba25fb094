"""The methods that `vl-lst profile` compares, from its options and a recipe."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from vl_lst.choices import (
    AUTO,
    QUANTIZED,
    ArithmeticPrecision,
    BackbonePrecision,
    ChosenArithmeticPrecision,
    ChosenBackbonePrecision,
)
from vl_lst.cli._choices import REFERENCE_METHOD
from vl_lst.errors import RecipeError

if TYPE_CHECKING:
    import torch

    from vl_lst.methods import Method
    from vl_lst.profiling.measure import ComparedMethod
    from vl_lst.recipes.schema import OptimizerSection

__all__ = [
    "ALL",
    "Recompute",
    "read_compared_methods",
    "read_optimizer",
    "read_precisions",
    "read_profile_recipe",
    "require_choice",
]

ALL = "all"
PRECISIONS: tuple[ChosenArithmeticPrecision, ...] = get_args(ChosenArithmeticPrecision)
BACKBONE_PRECISIONS: tuple[ChosenBackbonePrecision, ...] = get_args(ChosenBackbonePrecision)
Recompute = Literal["both", "true", "false"]
RECOMPUTE_VALUES: Mapping[Recompute, tuple[bool, ...]] = {
    "both": (False, True),
    "true": (True,),
    "false": (False,),
}
# A profile does not depend on it.
ANY_RATE = 1e-4
RECIPE_FIELDS: Mapping[str, Mapping[str, type]] = {
    "backbone": {"name": str, "precision": str, "vocabulary": str},
    "visual": {"pooled_grid": int, "embedding": str},
    "method": {"name": str, "options": dict},
    "optimizer": {"name": str, "projection": dict},
    "training": {"precision": str, "tf32": bool},
}
TYPE_NAMES = {
    bool: "true or false",
    str: "a string",
    int: "an integer above zero",
    dict: "a mapping",
}
Choice = TypeVar("Choice", bound=str)


def read_profile_recipe(name: str | None) -> dict[str, Any]:
    """Read a recipe, which may be incomplete, and check the fields that profiling uses.

    Args:
        name: Recipe file or name of a bundled recipe; `None` gives an empty recipe.

    Raises:
        RecipeError: There is no such recipe, or a field has the wrong type.
    """
    from vl_lst.recipes import read_recipe_file

    recipe = {} if name is None else read_recipe_file(name)
    for section, fields in RECIPE_FIELDS.items():
        found = recipe.get(section)
        if found is None:
            continue
        _require_type(name, section, found, dict)
        for field, kind in fields.items():
            if found.get(field) is not None:
                _require_type(name, f"{section}.{field}", found[field], kind)
    return recipe


def _require_type(recipe: str | None, field: str, value: object, kind: type) -> None:
    # Not isinstance, because bool is a subclass of int.
    if type(value) is not kind or (kind is int and isinstance(value, int) and value < 1):
        raise RecipeError(f"{recipe}: {field}: found {value!r:.80}; expected {TYPE_NAMES[kind]}")


def require_choice(name: str, value: object, choices: Sequence[Choice]) -> Choice:
    """Return `value` if it is one of the choices.

    Args:
        name: Name of the setting, for the error message.
        value: Value of an option or a recipe field.
        choices: Allowed values.

    Raises:
        RecipeError: The value is none of the choices.
    """
    for choice in choices:
        if value == choice:
            return choice
    raise RecipeError(f"{name}: found {value!r:.80}; expected one of {', '.join(choices)}")


def read_precisions(
    backbone: ChosenBackbonePrecision | None,
    arithmetic: ChosenArithmeticPrecision | None,
    recipe: Mapping[str, Any],
    device: "torch.device",
    *,
    name: str,
    dry_run: bool,
) -> tuple[BackbonePrecision, ArithmeticPrecision]:
    """Return the precisions of a profile: of the weights of the backbone, and of arithmetic.

    `auto`, the default, means what it means for training on the device. An estimate without a
    device is the same on every machine, so it means fp32 there.

    Args:
        backbone: Precision of the weights from an option, if any.
        arithmetic: Precision of arithmetic from an option, if any.
        recipe: Fields of a recipe, which may be empty; the ladder's own recipe fills them in.
        device: Device to measure on.
        name: Name of the backbone, which decides the ladder's recipe.
        dry_run: Whether nothing is measured.

    Raises:
        RecipeError: A precision of the recipe does not exist.
    """
    from eval.recipe_fields import get_field
    from vl_lst.recipes import default_recipe, read_recipe_file
    from vl_lst.recipes.precision import backbone_precision, preferred_precision

    usual = read_recipe_file(default_recipe(None, name))

    def found(section: str) -> Any:
        path = (section, "precision")
        return get_field(recipe, path) or get_field(usual, path) or AUTO

    weights = require_choice(
        "backbone.precision", backbone or found("backbone"), BACKBONE_PRECISIONS
    )
    wanted = require_choice("training.precision", arithmetic or found("training"), PRECISIONS)
    if wanted == AUTO:
        is_exact = dry_run or weights == "fp32"
        wanted = "fp32" if is_exact else preferred_precision(device)
    if weights == AUTO:
        weights = backbone_precision(None, wanted)
    return weights, wanted


def read_optimizer(name: str | None, recipe: Mapping[str, Any]) -> "OptimizerSection":
    """Return the optimizer of a profile.

    Args:
        name: Name of the optimizer; `None` is the recipe's, else `adamw`.
        recipe: Fields of a recipe, which may be empty; its projection applies to its own optimizer.

    Raises:
        RecipeError: A field of the recipe is not valid.
    """
    from eval.recipe_fields import get_field
    from vl_lst.recipes.optimizer_defaults import complete_projection
    from vl_lst.recipes.schema import OptimizerSection
    from vl_lst.recipes.validation import validate_section

    own = get_field(recipe, ("optimizer", "name"))
    optimizer: dict[str, Any] = {"lr": ANY_RATE}
    if chosen := name or own:
        optimizer["name"] = chosen
    if chosen == own:
        optimizer["projection"] = get_field(recipe, ("optimizer", "projection"))
    fields = {"optimizer": optimizer}
    complete_projection(fields)
    return validate_section(OptimizerSection, fields["optimizer"], ("optimizer",))


def read_compared_methods(
    methods: str | None,
    recipe: Mapping[str, Any],
    settings: Sequence[str],
    *,
    source: str | None,
    backbone: str,
    precision: ChosenBackbonePrecision | None = None,
    recompute: Recompute | None = None,
) -> "list[ComparedMethod]":
    """Return the methods to compare, each with the settings that `vl-lst train` would use.

    Args:
        methods: Comma-separated names, or `all`; `None` is the recipe's method, or all methods.
        recipe: Fields of a recipe, which may be empty; its options apply to its own method.
        settings: Overrides `METHOD.OPTION=VALUE`, which take precedence over the recipe.
        source: Name or file of the recipe, if any.
        backbone: Name of the backbone, which decides the bundled recipe of the other methods.
        precision: Precision of the backbone for all methods but those that need a quantized one or
            train its weights. Default: methods whose own recipe quantizes the backbone have that
            precision, the others that of the profile.
        recompute: Value of the option `recompute` of all methods that have it; `both` compares a
            method with itself. Default: that of each recipe.

    Raises:
        RecipeError: A method is unknown or given twice, or a setting is for none of the methods.
    """
    from eval.recipe_fields import get_field
    from vl_lst.methods import get_method, method_names
    from vl_lst.profiling.measure import ComparedMethod
    from vl_lst.recipes import default_recipe, parse_override, read_recipe_file
    from vl_lst.recipes.fields import set_field

    own = get_field(recipe, ("method", "name"))
    if methods is None:
        methods = own or ALL
    names = (
        sorted(method_names(), key=lambda name: name != REFERENCE_METHOD)
        if methods == ALL
        else [name.strip() for name in methods.split(",")]
    )
    if len(set(names)) < len(names):
        raise RecipeError(
            f"a method is given twice: found {', '.join(names)}, expected each method once"
        )
    options: dict[str, dict[str, Any]] = {}
    sources: dict[str, str | None] = {}
    precisions: dict[str, BackbonePrecision | None] = {}
    for name in names:
        method = get_method(name)
        sources[name] = source if name == own else default_recipe(name, backbone)
        fields = recipe if name == own else read_recipe_file(str(sources[name]))
        # A method without its own recipe trains with the ladder's and its own defaults.
        if get_field(fields, ("method", "name")) != name:
            sources[name], fields = None, {}
        options[name] = dict(get_field(fields, ("method", "options")) or {})
        wanted = get_field(fields, ("backbone", "precision")) or AUTO
        of_recipe = require_choice("backbone.precision", wanted, BACKBONE_PRECISIONS)
        keeps_own = method.needs_quantized_backbone and precision not in QUANTIZED
        if precision is not None and precision != AUTO and not keeps_own:
            precisions[name] = precision
        elif of_recipe in QUANTIZED:
            precisions[name] = of_recipe
        else:
            precisions[name] = "fp32" if method.trains_backbone_weights else None
    for setting in settings:
        path, value = parse_override(setting)
        method_name, *place = path.split(".")
        if method_name not in options or not place:
            raise RecipeError(
                f"--set {setting}: expected METHOD.OPTION=VALUE with one of the methods "
                f"{', '.join(names)}, such as --set {names[0]}.OPTION=VALUE"
            )
        if place == ["recompute"] and recompute is not None:
            raise RecipeError(
                f"--set {setting} and --recompute {recompute} set the same option: give one of them"
            )
        set_field(options[method_name], place, value)
    return [
        ComparedMethod(name, chosen, sources[name], precisions[name])
        for name, given in options.items()
        for chosen in _recomputing(get_method(name), given, recompute)
    ]


def _recomputing(
    method: "Method", options: dict[str, Any], recompute: Recompute | None
) -> list[dict[str, Any]]:
    """Return the options with each wanted value of `recompute`, if the method has that option.

    By default, it is the recipe's; `auto`, which depends on the memory of a device, is measured as
    true, with the least memory that the method needs.
    """
    if "recompute" not in method.options.model_fields:
        return [options]
    if recompute is None:
        is_auto = options.get("recompute", AUTO) == AUTO
        return [{**options, "recompute": True} if is_auto else options]
    return [{**options, "recompute": value} for value in RECOMPUTE_VALUES[recompute]]
