"""What the help texts list: generated from the files and tables that decide it."""

from typing import Any, get_args

from feature_extraction.encoders.table import ENCODERS
from tasks import task_names
from vl_lst.backbones.t5_sizes import shape_names
from vl_lst.choices import module_names

__all__ = ["BACKBONES", "ENCODER_NAMES", "METHODS", "TASKS", "alternatives"]

# The method that others are compared with.
FIRST = "lst"

METHODS = ", ".join(sorted(module_names("vl_lst.methods"), key=lambda name: name != FIRST))
TASKS = ", ".join(task_names())
ENCODER_NAMES = ", ".join(ENCODERS)
BACKBONES = ", ".join(shape_names())


def alternatives(literal: Any) -> str:
    """Join the values of a `Literal` for a metavar, such as `fp32|bf16`."""
    return "|".join(get_args(literal))
