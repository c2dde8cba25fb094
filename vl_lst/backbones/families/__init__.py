"""Families of backbones, one file each.

A file defines `FAMILY`. There is no list of families to edit: `find_family` looks for the file that
declares a model type.
"""

import importlib
import pkgutil
from functools import cache
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from vl_lst.backbones.family import Family
from vl_lst.choices import describe_modules
from vl_lst.errors import ModelError

__all__ = ["describe_families", "family_of", "find_family", "known_model_types"]


@cache
def _families() -> dict[str, Family]:
    """Return the families by model type."""
    found: dict[str, Family] = {}
    for entry in pkgutil.iter_modules(__path__):
        file = f"vl_lst/backbones/families/{entry.name}.py"
        try:
            module = importlib.import_module(f"{__name__}.{entry.name}")
        except (ImportError, SyntaxError) as error:
            raise ModelError(f"{file} cannot be imported: {error}") from error
        family = getattr(module, "FAMILY", None)
        if not isinstance(family, Family):
            raise ModelError(
                f"{file} has FAMILY = {family!r:.60}: expected an instance of a class that derives "
                "from vl_lst.backbones.family.Family"
            )
        for model_type in family.model_types:
            if model_type in found:
                raise ModelError(
                    f"{file} declares the model type {model_type}, which another family has: "
                    "expected a type of its own"
                )
            found[model_type] = family
    return found


def known_model_types() -> list[str]:
    """Return the model types of all families."""
    return sorted(_families())


def describe_families() -> list[tuple[str, str, tuple[str, ...]]]:
    """Return the name, the description and the model types of each family."""
    types: dict[str, list[str]] = {}
    for model_type, family in _families().items():
        types.setdefault(type(family).__module__, []).append(model_type)
    return [
        (name, text, tuple(types.get(f"{__name__}.{name.replace('-', '_')}", ())))
        for name, text in describe_modules(__name__).items()
    ]


def find_family(model_type: object) -> Family:
    """Return the family of a model type.

    Args:
        model_type: `model_type` of a `config.json`.

    Raises:
        ModelError: No family has the type, or the file of a family is faulty.
    """
    if model_type is None:
        found = "it has no model_type"
    elif not isinstance(model_type, str):
        found = f"its model_type is {model_type!r:.60}"
    elif (family := _families().get(model_type)) is not None:
        return family
    else:
        found = f"its model_type is {model_type:.60}{_kind(model_type)}"
    raise ModelError(
        f"{found}; expected an encoder-decoder or an encoder of one of these types: "
        f"{', '.join(known_model_types())}"
    )


def _kind(model_type: str) -> str:
    """Return what kind of model a type without a family is, if that is the reason."""
    # Encoders, too, have a class in which they are used as decoders.
    with_encoder = (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    is_decoder = model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not any(
        model_type in names for names in with_encoder
    )
    return ", a decoder without an encoder" if is_decoder else ""


def family_of(model: Any) -> Family:
    """Return the family of a Hugging Face model.

    Raises:
        ModelError: No family has the model's type.
    """
    return find_family(getattr(getattr(model, "config", None), "model_type", None))
