"""Recipes of earlier versions, whose runs must give the same results as before."""

from typing import Any

from vl_lst.recipes.fields import dig, set_field

__all__ = ["keep_former_values"]

# What earlier versions computed with where a field is now, for every task.
FORMER_VALUES = {"data.max_prompt_tokens": 20}
# Fields that each recipe a run wrote holds, empty ones too. Nobody writes all of them by hand.
ALWAYS_WRITTEN = (
    ("head",),
    ("data", "blind"),
    ("training", "epochs"),
    ("training", "steps"),
    ("training", "tensorboard"),
    ("generation", "beams"),
    ("generation", "max_length"),
)


def keep_former_values(fields: dict[str, Any]) -> None:
    """Fill in fields that the recipe of an earlier version's run lacks.

    A run writes every field. One that its recipe lacks is younger than the run, which computed
    with the former value and not with today's default. A recipe that somebody wrote gets today's
    default.

    Args:
        fields: A recipe as read from a file, changed in place.
    """
    if not all(_holds(fields, path) for path in ALWAYS_WRITTEN):
        return
    for field, value in FORMER_VALUES.items():
        path = field.split(".")
        if dig(fields, path) is None:
            set_field(fields, path, value)


def _holds(fields: Any, path: tuple[str, ...]) -> bool:
    section = dig(fields, path[:-1])
    return isinstance(section, dict) and path[-1] in section
