"""Names that help texts list and shells complete, from the files and tables that define them."""

from collections.abc import Iterable
from typing import get_args

from feature_extraction.choices import ResizeRule
from feature_extraction.encoders.table import ENCODERS
from tasks import SUITES, task_names
from vl_lst.bundled import BACKBONE_FOLDERS, bundled_recipes
from vl_lst.choices import module_names

__all__ = [
    "BACKBONES",
    "ENCODER_NAMES",
    "METHODS",
    "REFERENCE_METHOD",
    "RESIZE_RULES",
    "SUITE_NAMES",
    "TASKS",
    "complete_backbone",
    "complete_encoder",
    "complete_method",
    "complete_recipe_name",
    "complete_task",
]

# The method that the others are compared with; it is listed first.
REFERENCE_METHOD = "lst"

METHODS = ", ".join(
    sorted(module_names("vl_lst.methods"), key=lambda name: name != REFERENCE_METHOD)
)
TASKS = ", ".join(task_names())
SUITE_NAMES = " or ".join(SUITES)
ENCODER_NAMES = ", ".join(ENCODERS)
BACKBONES = " or ".join(BACKBONE_FOLDERS)
RESIZE_RULES = ", ".join(get_args(ResizeRule))


def complete_method(incomplete: str) -> list[str]:
    """Return the methods that a shell may complete a word to; it may list several."""
    return _complete_last(incomplete, module_names("vl_lst.methods"))


def complete_task(incomplete: str) -> list[str]:
    """Return the tasks and suites that a shell may complete a word to; it may list several."""
    suites = [] if "," in incomplete else SUITES
    return _complete_last(incomplete, [*task_names(), *suites])


def complete_recipe_name(incomplete: str) -> list[str]:
    """Return the bundled recipes that a shell may complete a word to."""
    return _complete_last(incomplete, bundled_recipes())


def complete_backbone(incomplete: str) -> list[str]:
    """Return the bundled backbones that a shell may complete a word to."""
    return _complete_last(incomplete, BACKBONE_FOLDERS)


def complete_encoder(incomplete: str) -> list[str]:
    """Return the image encoders of the table that a shell may complete a word to."""
    return _complete_last(incomplete, ENCODERS)


def _complete_last(incomplete: str, names: Iterable[str]) -> list[str]:
    """Return the names with which the last of several names may continue."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]
