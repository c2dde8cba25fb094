"""Fields of a recipe that is still a nest of dictionaries, by their paths."""

from collections.abc import Callable, Sequence
from typing import Any

from vl_lst.errors import RecipeError

__all__ = ["clear_other_length", "dig", "set_field"]

EPOCHS, STEPS = ("training", "epochs"), ("training", "steps")


def set_field(fields: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a field, making the sections it stands in.

    Args:
        fields: The recipe.
        path: Names of the sections, and the field's.
        value: Its value.

    Raises:
        RecipeError: Something on the way is no section.
    """
    place = fields
    for depth, name in enumerate(path[:-1]):
        if place.get(name) is None:
            place[name] = {}
        place = place[name]
        if not isinstance(place, dict):
            found = ".".join(path[: depth + 1])
            raise RecipeError(
                f"{'.'.join(path)}: cannot be set, since {found} is {place!r:.80} and has no fields"
            )
    place[path[-1]] = value


def dig(fields: Any, path: Sequence[str]) -> Any:
    """The field at a path, `None` where there is none."""
    for name in path:
        fields = fields.get(name) if isinstance(fields, dict) else None
    return fields


def clear_other_length(fields: dict[str, Any], given: Callable[[Sequence[str]], Any]) -> None:
    """Let epochs or steps, given alone, replace the other one that the recipe has.

    Args:
        fields: The recipe.
        given: Path of a field -> the value the user gave it; `None` where the user gave none. Both
            lengths given at once stay, and are refused when the recipe is validated.
    """
    for chosen, other in ((EPOCHS, STEPS), (STEPS, EPOCHS)):
        if given(chosen) is not None and given(other) is None and dig(fields, other) is not None:
            set_field(fields, other, None)
