"""What the choice of an optimizer implies for the rest of a recipe."""

import json
from collections.abc import Mapping
from typing import Any, get_args

from eval.recipe_fields import get_field
from vl_lst.choices import OptimizerName
from vl_lst.errors import RecipeError
from vl_lst.methods import get_method, method_names
from vl_lst.recipes.fields import set_field

__all__ = [
    "PROJECTION",
    "complete_projection",
    "require_low_rank_factors",
]

PROJECTION = ("optimizer", "projection")
# The defaults of transformers' Trainer.
PROJECTION_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "galore": {"rank": 128, "update_proj_gap": 200, "scale": 0.25, "scale_type": None},
    "apollo": {"rank": 128, "update_proj_gap": 200, "scale": 1.0, "scale_type": "channel"},
}


def complete_projection(fields: dict[str, Any]) -> None:
    """Fill in the projection of an optimizer that has one.

    Args:
        fields: Recipe, changed in place.

    Raises:
        RecipeError: There are settings of a projection, and the optimizer has none.
    """
    name = get_field(fields, ("optimizer", "name"))
    name = "adamw" if name is None else name
    defaults = PROJECTION_DEFAULTS.get(name) if isinstance(name, str) else None
    found = get_field(fields, PROJECTION)
    if defaults is not None:
        if found is None or isinstance(found, dict):
            set_field(fields, PROJECTION, {**defaults, **(found or {})})
    elif found is not None and name in get_args(OptimizerName):
        raise RecipeError(
            f"optimizer.projection: found {json.dumps(found, default=str):.80}, which {name} does "
            f"not read; expected null, or optimizer.name to be {' or '.join(PROJECTION_DEFAULTS)}"
        )


def require_low_rank_factors(optimizer: OptimizerName, method: str) -> None:
    """Refuse the optimizer `lora-fa` for a method that has no low-rank updates B A.

    Raises:
        RecipeError: The method has none.
    """
    if optimizer == "lora-fa" and not get_method(method).has_low_rank_factors:
        having = [name for name in method_names() if get_method(name).has_low_rank_factors]
        raise RecipeError(
            f"optimizer.name: found lora-fa, which trains the factors B of low-rank updates B A, "
            f"and the method {method} has none; expected the method {' or '.join(having)}, or "
            "another optimizer such as adamw"
        )
