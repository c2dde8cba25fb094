"""Recipes of earlier versions, whose runs must give the same results as before."""

from collections.abc import Sequence
from typing import Any

from eval.recipe_fields import FORMER_DEFAULTS, FORMER_OPTIONS, FORMER_VALUES, get_field
from eval.run_files import ZERO_SHOT
from vl_lst.recipes.fields import set_field

__all__ = ["keep_former_values", "rename_former_field"]

FORMER_TRACKER = ["training", "tensorboard"]

# Fields that every recipe written by a run contains, even if empty. Nobody writes all of them by
# hand.
ALWAYS_WRITTEN = (
    ("head",),
    ("data", "blind"),
    ("training", "epochs"),
    ("training", "steps"),
    ("training", "trackers"),
    ("generation", "beams"),
    ("generation", "max_length"),
)


def keep_former_values(fields: dict[str, Any]) -> None:
    """Fill in fields that are missing in the recipe of an earlier version's run.

    A run writes every field, so a missing one is newer than the run, which used the former value
    and not today's default. A recipe written by hand gets today's default.

    Args:
        fields: Recipe as read from a file, changed in place.
    """
    former = get_field(fields, FORMER_TRACKER)
    path, value = rename_former_field(FORMER_TRACKER, former)
    if path != FORMER_TRACKER and not _has_field(fields, path):
        del fields["training"]["tensorboard"]
        set_field(fields, path, value)
    method = str(get_field(fields, ("method", "name")))
    is_trained = all(_has_field(fields, path) for path in ALWAYS_WRITTEN)
    # Only a run writes a recipe without training.
    if not (is_trained or method == ZERO_SHOT):
        return
    for field, value in FORMER_DEFAULTS.items():
        path = field.split(".")
        if isinstance(get_field(fields, path[:-1]), dict) and not _has_field(fields, path):
            set_field(fields, path, value)
    if not is_trained:
        return
    for field, value in FORMER_VALUES.items():
        path = field.split(".")
        if get_field(fields, path) is None:
            set_field(fields, path, value)
    for option, value in FORMER_OPTIONS.get(method, {}).items():
        path = ["method", "options", option]
        if not _has_field(fields, path):
            set_field(fields, path, value)


def rename_former_field(path: list[str], value: Any) -> tuple[list[str], Any]:
    """Return the path and value of a field under today's name.

    Args:
        path: Path of the field, perhaps as earlier versions named it.
        value: Value of the field.
    """
    if path == FORMER_TRACKER and isinstance(value, bool):
        return ["training", "trackers"], ["tensorboard"] if value else []
    return path, value


def _has_field(fields: Any, path: Sequence[str]) -> bool:
    section = get_field(fields, path[:-1])
    return isinstance(section, dict) and path[-1] in section
