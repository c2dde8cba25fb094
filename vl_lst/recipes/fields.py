"""Fields of a recipe that is still a nested dictionary."""

from collections.abc import Callable, Sequence
from typing import Any

from eval.recipe_fields import get_field
from vl_lst.errors import RecipeError

__all__ = ["clear_other_length", "set_field"]

EPOCHS, STEPS = ("training", "epochs"), ("training", "steps")


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


def clear_other_length(fields: dict[str, Any], given: Callable[[Sequence[str]], Any]) -> None:
    """Let `epochs` or `steps`, given alone, replace the other one in a recipe.

    Args:
        fields: Recipe, changed in place.
        given: Function from the path of a field to the value that the user set, `None` if none. If
            the user set both lengths, both stay, and validation reports them.
    """
    for chosen, other in ((EPOCHS, STEPS), (STEPS, EPOCHS)):
        is_alone = given(chosen) is not None and given(other) is None
        if is_alone and get_field(fields, other) is not None:
            set_field(fields, other, None)
