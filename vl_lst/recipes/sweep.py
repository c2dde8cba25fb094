"""Expand a grid of settings into runs.

Each run is a base recipe and changes to it, as `vl-lst train` takes them: the fields that its
options set come first, then those of `--set`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from eval.recipe_fields import METHOD_FIELDS, flatten_fields, get_field, is_within
from vl_lst.errors import RecipeError
from vl_lst.methods import get_method
from vl_lst.recipes.grid import (
    BACKBONE,
    METHOD,
    NAMED_SECTIONS,
    OPTION_FIELDS,
    OPTIONS,
    SEED,
    Axis,
    folder_part,
    safe_name,
)
from vl_lst.recipes.reading import default_recipe, read_recipe_file

__all__ = ["SweepRun", "expand_grid"]

Changes = tuple[tuple[str, Any], ...]

# Each method needs its own, whatever the recipe was written for.
ALWAYS_OWN = ("optimizer.lr", "optimizer.weight_decay")


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One run of a sweep.

    Args:
        name: Folder of the run, relative to that of the sweep, such as `lst/reduction=4/seed-0`.
        base: File or name of the recipe that is changed.
        options: (path of a field, value) pairs that options of `vl-lst train` set.
        settings: The same for `--set`; later pairs win.
    """

    name: str
    base: str
    options: Changes
    settings: Changes

    @property
    def changes(self) -> Changes:
        """All changes to the recipe, in order."""
        return self.options + self.settings


@dataclass(slots=True)
class _OptionUse:
    """Which options apply to which methods of a sweep.

    Args:
        dropped: Methods that lack an option, by its path.
        used: Options that at least one method has.
    """

    dropped: dict[str, dict[str, None]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def applies(self, path: str, method: str) -> bool:
        """Return whether a method has a field, and remember it."""
        option = path.removeprefix(OPTIONS).partition(".")[0]
        if not path.startswith(OPTIONS):
            return True
        if option in get_method(method).options.model_fields:
            self.used.add(path)
            return True
        self.dropped.setdefault(path, {})[method] = None
        return False

    def notes(self) -> list[str]:
        """Return a sentence per option that some methods lack.

        Raises:
            RecipeError: No method has it.
        """
        for path, methods in self.dropped.items():
            if path not in self.used:
                known = dict.fromkeys(
                    option for name in methods for option in get_method(name).options.model_fields
                )
                raise RecipeError(
                    f"{path}: no method of the sweep has this option ({', '.join(methods)}); "
                    f"expected one of: {', '.join(known)}"
                )
        return [
            f"{', '.join(methods)}: no option {path.removeprefix(OPTIONS)}, so runs without it"
            for path, methods in self.dropped.items()
        ]


def expand_grid(
    recipes: Sequence[str],
    axes: Sequence[Axis],
    seeds: Sequence[int] | None,
    tasks: Mapping[str | None, Changes],
    settings: Changes,
) -> tuple[list[SweepRun], list[str]]:
    """Return the runs of a sweep, seed by seed, and notes on options that do not apply.

    An option that a method does not have is left out of its runs, so the values of that option are
    a single run of the method. An axis for one method replaces one for all methods.

    If a recipe is changed to another method, its optimizer's rate and weight decay, its options,
    and what else the methods' own recipes differ in come from the recipe of that method.

    Args:
        recipes: Files or names of recipes; without any, each method's own recipe.
        axes: Axes of the grid.
        seeds: Seeds; `None` takes that of the recipe.
        tasks: Fields that options set, by the task of a suite, or by `None` if there is no suite.
        settings: Fields that `--set` sets in all runs.

    Raises:
        RecipeError: A recipe, a field or a value is not valid, or two runs would share a folder.
    """
    _require_consistent(axes, tasks, settings)
    use = _OptionUse()
    runs: list[SweepRun] = []
    chosen: Sequence[str | None] = recipes or (None,)
    points = [(recipe, point) for recipe in chosen for point in _points(recipe, axes, tasks, use)]
    for position in range(len(seeds or [0])):
        for recipe, point in points:
            seed = seeds[position] if seeds is not None else _recipe_seed(point.base)
            runs += _runs_of(recipe, point, seed, tasks, settings, use)
    notes = use.notes()
    for axis in axes:
        if axis.method is not None and all(point.method != axis.method for _, point in points):
            raise RecipeError(
                f"--grid {axis}: no run trains {axis.method}; add it to --grid {METHOD}=..., or "
                "leave this grid out"
            )
    _require_distinct_folders(runs)
    return runs, notes


@dataclass(frozen=True, slots=True)
class _Point:
    """A combination of values for one method.

    Args:
        base: File or name of the recipe.
        method: Method that it trains.
        axes: Axes that apply to it.
        values: One value of each axis.
    """

    base: str
    method: str
    axes: tuple[Axis, ...]
    values: tuple[Any, ...]

    @property
    def changes(self) -> Changes:
        """The values by the paths of their fields."""
        return tuple(
            (axis.field, value) for axis, value in zip(self.axes, self.values, strict=True)
        )


def _points(
    recipe: str | None,
    axes: Sequence[Axis],
    tasks: Mapping[str | None, Changes],
    use: _OptionUse,
) -> Iterator[_Point]:
    """Yield all combinations for one recipe."""
    given = dict(next(iter(tasks.values())))
    chosen = [axis for axis in axes if axis.field in (METHOD, BACKBONE) and axis.method is None]
    for choice in product(*(axis.values for axis in chosen)):
        named = given | {axis.field: value for axis, value in zip(chosen, choice, strict=True)}
        base = recipe or default_recipe(named.get(METHOD), named.get(BACKBONE))
        method = named.get(METHOD) or get_field(read_recipe_file(base), METHOD.split("."))
        if not isinstance(method, str):
            raise RecipeError(f"{base}: found no method; set one with --grid {METHOD}=...")
        get_method(method)
        own = {axis.field for axis in axes if axis.method == method}
        others = [
            axis
            for axis in axes
            if axis not in chosen
            and (axis.method == method or (axis.method is None and axis.field not in own))
            and use.applies(axis.field, method)
        ]
        for values in product(*(axis.values for axis in others)):
            yield _Point(base, method, (*chosen, *others), (*choice, *values))


def _runs_of(
    recipe: str | None,
    point: _Point,
    seed: int,
    tasks: Mapping[str | None, Changes],
    settings: Changes,
    use: _OptionUse,
) -> Iterator[SweepRun]:
    """Yield the run of a point and a seed, or one run per task of a suite."""
    is_method_axis = any(axis.field == METHOD for axis in point.axes)
    parts = [] if recipe is None else [safe_name(Path(recipe).stem)]
    if recipe is None or is_method_axis:
        parts.append(safe_name(point.method))
    parts += [
        folder_part(axis, value, point.axes)
        for axis, value in zip(point.axes, point.values, strict=True)
        if axis.field != METHOD
    ]
    parts.append(f"seed-{seed}")
    for task, options in tasks.items():
        named = dict(options) | {
            path: value for path, value in point.changes if path in OPTION_FIELDS
        }
        own = (
            *_own_settings(point.base, point.method, named.get(BACKBONE)),
            *(pair for pair in settings if use.applies(pair[0], point.method)),
            *(pair for pair in point.changes if pair[0] not in OPTION_FIELDS),
            (SEED, seed),
        )
        set_fields = {path for path, _ in own}
        yield SweepRun(
            name="/".join([*parts, *([] if task is None else [task])]),
            base=point.base,
            # `vl-lst train` refuses an option and `--set` of the same field.
            options=tuple(pair for pair in named.items() if pair[0] not in set_fields),
            settings=own,
        )


def _own_settings(base: str, method: str, backbone: str | None) -> Iterator[tuple[str, Any]]:
    """Yield what a recipe for another method gets from the recipe of the method."""
    recipe = read_recipe_file(base)
    former = get_field(recipe, METHOD.split("."))
    if former == method:
        return
    backbone = backbone or get_field(recipe, BACKBONE.split("."))
    own = _own_fields(method, backbone)
    others = _own_fields(former, backbone)
    if own.get(METHOD) == method:
        yield from ((path, value) for path, value in own.items() if path.startswith(OPTIONS))
    for path, value in own.items():
        if path in ALWAYS_OWN or (
            is_within(path, METHOD_FIELDS)
            and not is_within(path, ("method",))
            and others.get(path) != value
        ):
            yield path, value


def _own_fields(method: str | None, backbone: str | None) -> dict[str, Any]:
    """Return the fields of the bundled recipe for a method."""
    return flatten_fields(read_recipe_file(default_recipe(method, backbone)))


def _recipe_seed(base: str) -> int:
    """Return the seed of a recipe; other values than numbers are refused with the recipe."""
    seed = get_field(read_recipe_file(base), SEED.split("."))
    return 0 if seed is None else seed


def _require_consistent(
    axes: Sequence[Axis], tasks: Mapping[str | None, Changes], settings: Changes
) -> None:
    """Refuse fields that are set in two ways.

    Raises:
        RecipeError: Two axes have the same field, or an option or `--set` sets it as well.
    """
    seen: set[str] = set()
    for axis in axes:
        if str(axis) in seen:
            raise RecipeError(f"--grid {axis}: given twice; list all values in one --grid")
        seen.add(str(axis))
    given = {path for options in tasks.values() for path, _ in options}
    set_fields = {path for path, _ in settings}
    for axis in axes:
        if taken := next((path for path in given if is_within(path, [axis.field])), None):
            raise RecipeError(f"--grid {axis}: another option sets {taken}; leave one out")
        if axis.field in set_fields and axis.method is None:
            raise RecipeError(f"--grid {axis}: --set sets {axis.field} too; leave one out")
    for path in (*OPTION_FIELDS, *NAMED_SECTIONS, SEED):
        if path in set_fields:
            better = {SEED: "--seeds"}.get(path, f"--{path.split('.')[0]} or --grid")
            raise RecipeError(
                f"--set {path}: use {better} instead, so that folders are named by it"
            )


def _require_distinct_folders(runs: Iterable[SweepRun]) -> None:
    """Refuse runs whose folders are equal, also on file systems that ignore case.

    Raises:
        RecipeError: Two runs would share a folder.
    """
    names: dict[str, str] = {}
    for run in runs:
        folded = run.name.lower()
        if folded in names:
            raise RecipeError(
                f"two runs of the sweep would share the folder {names[folded]}: values that differ "
                "only in case or in characters that folders do not have, or recipes of the same "
                "name. Rename them, or train them with different --out."
            )
        names[folded] = run.name
