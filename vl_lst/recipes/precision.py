"""Precisions that a recipe leaves to the device: `auto`, which is the default."""

from typing import Any

import torch

from eval.recipe_fields import get_field
from vl_lst.backbones.states.reader import StateReader
from vl_lst.choices import AUTO, QUANTIZED, ArithmeticPrecision, BackbonePrecision
from vl_lst.devices import available_device, native_bf16
from vl_lst.methods import get_method, method_names
from vl_lst.recipes.fields import set_field
from vl_lst.recipes.schema import Recipe

__all__ = [
    "ARITHMETIC",
    "BACKBONE",
    "TF32",
    "backbone_precision",
    "complete_precisions",
    "preferred_precision",
]

# Paths of the fields that the device decides.
ARITHMETIC = ("training", "precision")
BACKBONE = ("backbone", "precision")
TF32 = ("training", "tf32")


def complete_precisions(fields: dict[str, Any], running: Recipe | None) -> None:
    """Replace `auto`, or a missing precision, by the precision that it means here.

    A run thus records what it computed, and computes the same wherever it is loaded or resumed.
    Arithmetic is in bf16 where that is native, unless float32 weights of the backbone are asked
    for, as by recipes of earlier versions. TF32 is on where it exists, which is on CUDA.

    Args:
        fields: Recipe, changed in place.
        running: Recipe of the run that will be resumed, whose precisions `auto` keeps; `None` for
            a new run.
    """
    device = available_device(get_field(fields, ("training", "device")))
    given = get_field(fields, BACKBONE)
    if _is_auto(get_field(fields, ARITHMETIC)):
        if running is not None:
            arithmetic = running.training.precision
        else:
            arithmetic = "fp32" if given == "fp32" else preferred_precision(device)
        set_field(fields, ARITHMETIC, arithmetic)
    if _is_auto(given):
        if running is not None:
            weights = running.backbone.precision
        else:
            method = get_field(fields, ("method", "name"))
            weights = _precision_of_states(get_field(fields, ("states",))) or backbone_precision(
                method, get_field(fields, ARITHMETIC)
            )
        set_field(fields, BACKBONE, weights)
    if get_field(fields, TF32) is None:
        tf32 = device.type == "cuda" if running is None else running.training.tf32
        set_field(fields, TF32, tf32)


def preferred_precision(device: torch.device) -> ArithmeticPrecision:
    """Return bf16 on devices with native bf16 arithmetic, else fp32."""
    return "bf16" if native_bf16(device) else "fp32"


def backbone_precision(method: object, arithmetic: object) -> BackbonePrecision:
    """Return the precision that `auto` means for the weights of a method's backbone.

    It is that of the arithmetic, so that exact arithmetic has exact states. Methods that train
    these weights keep them in float32, in which small updates are not rounded to zero; methods
    that need a quantized backbone have the smallest one.

    Args:
        method: Name of the method; an unknown one is reported elsewhere.
        arithmetic: Precision of arithmetic; an unknown one is reported elsewhere.
    """
    if isinstance(method, str) and method in method_names():
        kind = get_method(method)
        if kind.needs_quantized_backbone:
            return QUANTIZED[0]
        if kind.trains_backbone_weights:
            return "fp32"
    return "bf16" if arithmetic == "bf16" else "fp32"


def _precision_of_states(path: object) -> BackbonePrecision | None:
    """Return the precision of the backbone that computed a file of states; `None` without one."""
    return StateReader(path).spec.precision if isinstance(path, str) else None


def _is_auto(value: object) -> bool:
    return value is None or value == AUTO
