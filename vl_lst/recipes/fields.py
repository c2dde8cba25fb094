"""Fields of a recipe that is still a nested dictionary."""

from collections.abc import Callable, Sequence
from typing import Any

from vl_lst.errors import RecipeError

__all__ = ["clear_alternatives", "set_field"]

# Pairs of fields of which exactly one is set.
ALTERNATIVES = (
    (("training", "epochs"), ("training", "steps")),
    (("optimizer", "warmup_share"), ("optimizer", "warmup_steps")),
)


def set_field(fields: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a field, creating the sections that contain it.

    Args:
        fields: Recipe, changed in place.
        path: Names of the sections, then of the field.
        value: Value to set.

    Raises:
        RecipeError: A part of the path is a value, not a section.
    """
    section = fields
    for depth, name in enumerate(path[:-1]):
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            found = ".".join(path[: depth + 1])
            raise RecipeError(
                f"{'.'.join(path)}: cannot be set, since {found} is {section!r:.80} and has no "
                "fields"
            )
    section[path[-1]] = value


def clear_alternatives(fields: dict[str, Any], given: Callable[[Sequence[str]], Any]) -> None:
    """Let a field that is given alone, such as `epochs`, replace its alternative, such as `steps`.

    Args:
        fields: Recipe, changed in place.
        given: Function from the path of a field to the value that the user set, `None` if none. If
            the user set both fields of a pair, both stay, and validation reports them.
    """
    for pair in ALTERNATIVES:
        for chosen, other in (pair, pair[::-1]):
            if given(chosen) is not None and given(other) is None:
                set_field(fields, other, None)
