"""Every transfer method, also with options that change what trains, for the tiny backbones."""

from typing import Any

import torch
from guide_methods import guide_methods
from tiny_batches import ANSWERS, visual_for
from torch import nn

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.methods import Method, get_method
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig

__all__ = [
    "HEADS",
    "OPTIONS",
    "VARIANTS",
    "attach",
    "lacks",
    "method_named",
    "train_declared",
    "variants_on",
]

GUIDE_METHODS = guide_methods()
HEADS = {
    "generate": HeadConfig(kind="generate"),
    "classify": HeadConfig(kind="classify", answers=ANSWERS),
    "regress": HeadConfig(kind="regress", value_range=(0.0, 5.0)),
}
# Small enough for the tiny backbones, whose sizes are even.
OPTIONS: dict[str, dict[str, object]] = {
    "adapter": {"reduction": 2},
    "dora": {"rank": 4},
    "lora": {"rank": 4},
    "lst": {"reduction": 2},
    "prompt": {"tokens": 3, "middle_width": 8},
    "qst": {"reduction": 2, "rank": 4},
    # Without a bias, scores of so few channels may all be negative, and their weights do not train.
    # The first step turns the tiny mixtures; with fewer channels, four steps do not make up for it.
    "sherl": {"reduction": 1, "score_bias": 0.1},
    "side": {"reduction": 2},
    "unipt": {"reduction": 2},
    "vera": {"rank": 4},
    "vl-pet": {"bottleneck": 4, "gate_bottleneck": 3, "value_bottleneck": 2},
    "xladder": {"reduction": 2},
}
# A method with other options, by a name for the test.
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "lst merged": ("lst", {"reduction": 2, "merge_last": True, "gates": "channel"}),
    "lst from small weights": ("lst", {"reduction": 2, "random_weights": "small"}),
    "qst unbounded": ("qst", {"reduction": 2, "rank": 4, "last_gate": "unbounded"}),
    "xladder of last layers": (
        "xladder",
        {"reduction": 2, "encoder_layers": (1,), "free_blocks": 2, "rung_place": "after_block"},
    ),
    "adapter with norms": (
        "adapter",
        {
            "reduction": 2,
            "places": ("self_attention", "feed_forward"),
            "train_norms": True,
            "initialisation": "small",
        },
    ),
    "lora with biases": ("lora", {"rank": 4, "train_biases": True}),
    "lora with tables": ("lora", {"rank": 4, "train_position_tables": True}),
    "dora with biases": ("dora", {"rank": 4, "train_biases": True}),
    "bitfit without final norms": ("bitfit", {"final_norms": False}),
    "unipt for text": ("unipt", {"reduction": 2, "form": "text"}),
    "prompt of vectors": ("prompt", {"tokens": 3, "middle_width": None}),
    "vl-pet small": ("vl-pet", {"size": "small", "bottleneck": 4, "value_bottleneck": 2}),
}
# Backbones that have what an option concerns, and the refusal of others.
NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "lora with tables": (
        ("t5", "t5-v1.1", "mt5", "umt5", "blip-2", "deberta-v3"),
        "has no tables of relative position biases: expected false",
    ),
    "bitfit without final norms": (
        ("t5", "t5-v1.1", "mt5", "umt5", "blip-2", "mbart", "t5gemma", "t5gemma2", "pegasus"),
        "has no norm after the last block of a stack: expected true",
    ),
}


def variants_on(backbone: str) -> list[str]:
    """Return the variants that a tiny backbone supports."""
    return [name for name in VARIANTS if name not in NEEDS or backbone in NEEDS[name][0]]


def lacks(variant: str) -> str | None:
    """Return the end of the message that refuses a variant; `None` if all backbones support it."""
    return NEEDS[variant][1] if variant in NEEDS else None


def method_named(name: str) -> Method:
    """Return a method, one of the guide, or that of a variant."""
    if name in VARIANTS:
        return get_method(VARIANTS[name][0])
    return GUIDE_METHODS.get(name) or get_method(name)


def attach(
    name: str,
    backbone: FrozenBackbone,
    head: str,
    dropout: float = 0.0,
    *,
    has_images: bool = True,
    recompute: bool = False,
    seed: int = 3,
) -> tuple[Any, dict[str, nn.Parameter]]:
    """Build a model and its trainable parameters as training does."""
    method = method_named(name)
    chosen = VARIANTS[name][1] if name in VARIANTS else OPTIONS.get(name, {})
    known = method.options.model_fields
    options = {"dropout": dropout, "recompute": recompute, **chosen}
    torch.manual_seed(seed)
    model = method.attach(
        backbone,
        method.options.model_validate({k: v for k, v in options.items() if k in known}),
        visual=visual_for(backbone) if has_images else None,
        heads={DEFAULT_TASK: HEADS[head]},
    )
    model.requires_grad_(False)
    trainable = method.trainable(model)
    for parameter in trainable.values():
        parameter.requires_grad_(True)
    return model.eval(), trainable


def train_declared(
    model: Any, trainable: dict[str, nn.Parameter], batch: Batch, *, lr: float
) -> None:
    """Train a few steps, in which exactly the declared parameters get gradients and learn."""
    optimizer = torch.optim.AdamW(trainable.values(), lr=lr, weight_decay=0.0)
    model.train()
    parameters = list(model.named_parameters())
    losses = []
    for _ in range(4):  # behind a factor of zero, the first nonzero gradient comes in step two
        optimizer.zero_grad()
        loss = model(batch)
        loss.backward()
        losses.append(loss.item())
        with_gradient = {key for key, p in parameters if p.grad is not None}
        assert with_gradient == set(trainable)
        optimizer.step()
    assert losses[-1] < losses[0]
