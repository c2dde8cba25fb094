"""Variants of the ablation: the paper's ladder, ours, and the steps between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval.recipe_fields import get_field
from vl_lst.methods import method_names
from vl_lst.recipes import read_recipe_file

__all__ = ["Variant", "variants"]

OPTIONS = "method.options."

# Settings of the paper's ladder; schedule and width are the demo's for every variant.
_PAPER_RECIPE = read_recipe_file("lst-paper")
PAPER: dict[str, Any] = {
    field: get_field(_PAPER_RECIPE, field.split("."))
    for field in (
        OPTIONS + "image_rungs",
        OPTIONS + "rungs",
        OPTIONS + "gate_start",
        OPTIONS + "initialisation",
        OPTIONS + "backbone_dropout",
        "optimizer.decay",
        "visual.image_order_std",
    )
}
IMPROVEMENTS: dict[str, dict[str, Any]] = {
    "image tokens pass": {OPTIONS + "image_rungs": "pass"},
    "normalised rungs": {OPTIONS + "rungs": "normalised"},
    "gates begin at 0.9": {OPTIONS + "gate_start": 0.9},
    "random start": {OPTIONS + "initialisation": "random"},
    "quiet backbone": {OPTIONS + "backbone_dropout": 0.0},
    "decay of weights": {"optimizer.decay": "weights"},
    "small image order": {"visual.image_order_std": 0.02},
}
# Settings of rungs and gates for a coherent start.
_SELECTING: dict[str, Any] = {OPTIONS + "rungs": "linear", OPTIONS + "gate_start": 0.5}
# Alternatives and additions, each compared with all improvements together.
CHOICES: dict[str, dict[str, Any]] = {
    "image projection": {OPTIONS + "image_rungs": "projection"},
    "magnitude": {OPTIONS + "initialisation": "magnitude"},
    **{
        kind.replace("_", " "): {**_SELECTING, OPTIONS + "initialisation": kind}
        for kind in ("coherent_magnitude", "coherent_fisher", "principal")
    },
    "principal, rungs after blocks": {
        **_SELECTING,
        OPTIONS + "initialisation": "principal",
        OPTIONS + "rung_place": "after_block",
    },
    "rungs after blocks": {OPTIONS + "rung_place": "after_block"},
    "small weights": {OPTIONS + "random_weights": "small"},
    "gates per channel": {OPTIONS + "gates": "channel"},
    "pooled rungs": {OPTIONS + "rungs": "pool"},
    # The demo's backbone has three encoder and three decoder layers.
    "two layers of three": {OPTIONS + "encoder_layers": [0, 2], OPTIONS + "decoder_layers": [0, 2]},
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table.

    Args:
        name: Name of the variant.
        method: Transfer method.
        changes: Recipe fields that it sets.
    """

    name: str
    method: str
    changes: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Folder name of its runs, valid on every file system."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name)


def variants() -> dict[str, Variant]:
    """Return all variants by name, in the order of the table."""
    everything = {**PAPER}
    for changes in IMPROVEMENTS.values():
        everything |= changes
    table: dict[str, dict[str, Any]] = {"lst-paper": PAPER}
    table |= {f"lst-paper + {name}": PAPER | changes for name, changes in IMPROVEMENTS.items()}
    table["all"] = everything
    for name, changes in IMPROVEMENTS.items():
        table[f"all - {name}"] = everything | {field: PAPER[field] for field in changes}
    table |= {f"all, {name}": everything | changes for name, changes in CHOICES.items()}
    ladders = {name: Variant(name, "lst", changes) for name, changes in table.items()}
    baselines = {name: Variant(name, name, {}) for name in method_names() if name != "lst"}
    return ladders | baselines
