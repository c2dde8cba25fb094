"""Names that help texts list, read from the files and tables that define them."""

from feature_extraction.encoders.table import ENCODERS
from tasks import task_names
from vl_lst.backbones.t5_sizes import shape_names
from vl_lst.choices import module_names

__all__ = ["BACKBONES", "ENCODER_NAMES", "METHODS", "REFERENCE_METHOD", "TASKS"]

# The method that the others are compared with; it is listed first.
REFERENCE_METHOD = "lst"

METHODS = ", ".join(
    sorted(module_names("vl_lst.methods"), key=lambda name: name != REFERENCE_METHOD)
)
TASKS = ", ".join(task_names())
ENCODER_NAMES = ", ".join(ENCODERS)
BACKBONES = ", ".join(shape_names())
