"""Names that help texts list, read from the files and tables that define them."""

from typing import get_args

from feature_extraction.choices import ResizeRule
from feature_extraction.encoders.table import ENCODERS
from tasks import SUITES, task_names
from vl_lst.bundled import BACKBONE_FOLDERS
from vl_lst.choices import module_names

__all__ = [
    "BACKBONES",
    "ENCODER_NAMES",
    "METHODS",
    "REFERENCE_METHOD",
    "RESIZE_RULES",
    "SUITE_NAMES",
    "TASKS",
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
