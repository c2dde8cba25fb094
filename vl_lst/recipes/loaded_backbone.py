"""The weights of a backbone whose states are read from a file, for work that needs them."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vl_lst.backbones.stored import StoredBackbone
from vl_lst.errors import ModelError
from vl_lst.recipes.building import BuiltModel, load_unquantized
from vl_lst.recipes.schema import Recipe

__all__ = ["backbone_in_memory", "load_backbone_of"]

log = logging.getLogger(__name__)


@contextmanager
def backbone_in_memory(
    recipe: Recipe, built: BuiltModel, reason: str, *, is_quantized: bool = True
) -> Iterator[None]:
    """Load the backbone for a block and free it afterwards, unless it is in memory anyway.

    Args:
        recipe: Recipe of the run.
        built: Its model.
        reason: What needs the backbone, for the log.
        is_quantized: Whether to quantize the weights if the recipe says so.

    Raises:
        ModelError: The backbone cannot be loaded, or has other weights than the one whose states
            the run reads.
    """
    stored = built.model.backbone
    if not isinstance(stored, StoredBackbone):
        yield
        return
    load_backbone_of(recipe, built, reason, is_quantized=is_quantized)
    try:
        yield
    finally:
        built.model.backbone = stored
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def load_backbone_of(
    recipe: Recipe, built: BuiltModel, reason: str, *, is_quantized: bool = True
) -> None:
    """Load the backbone of a model, unless it is in memory; see `backbone_in_memory`.

    Raises:
        ModelError: The backbone cannot be loaded, or has other weights than the one whose states
            the run reads.
    """
    stored = built.model.backbone
    if not isinstance(stored, StoredBackbone):
        return
    name, device = recipe.backbone.name, built.model.device
    log.info("loading the backbone %s: %s", name, reason)
    # Loading draws random numbers for weights that it then replaces, and dropout must not depend
    # on how often the backbone is loaded.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        loaded = load_unquantized(recipe)
    if loaded.fingerprint != built.fingerprint:
        raise ModelError(
            f"the backbone {name} has other weights than the one whose states the run reads: found "
            f"SHA-256 {loaded.fingerprint[:12]}, expected {built.fingerprint[:12]}. Restore the "
            "original weights, or extract the states again."
        )
    built.model.backbone = loaded.backbone
    if is_quantized:
        built.quantize_backbone()
    loaded.backbone.to(device)
