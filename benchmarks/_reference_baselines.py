"""Baseline methods as the reference implementation names and stores them."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vl_lst.backbones.reference import backbone_from_reference
from vl_lst.methods import get_method
from vl_lst.models.batch import DEFAULT_TASK
from vl_lst.models.config import HeadConfig
from vl_lst.models.joint import JointModel
from vl_lst.models.reference_checkpoint import (
    visual_config,
    visual_pieces,
)

__all__ = ["MODES", "baseline_namer", "build_baseline", "order_gradient", "unsupported_setting"]

# Options of each mode, by their names in the reference's configuration.
MODES: dict[str, dict[str, str]] = {
    "full": {},
    "bitfit": {},
    "adapter": {"reduction": "reduction_factor"},
    "lora": {"rank": "dim", "alpha": "alpha"},
    "prompt": {"tokens": "prompt_len", "middle_width": "mid_dim"},
}

VISUAL = {piece.name: piece.reference for piece in visual_pieces()}
# Our names and the reference's, which adds its modules once per task.
RENAMES = (
    (r"^backbone\.model\.", ""),
    (r"^prefix\.embedding", "encoder.prompt_modules.prompts.TASK.prefix_embedding.0"),
    (r"^prefix\.layers\.0", "encoder.prompt_modules.prompts.TASK.prefix_embedding.1"),
    (r"^prefix\.layers\.2", "encoder.prompt_modules.prompts.TASK.prefix_embedding.3"),
    (rf"^classifiers\.{DEFAULT_TASK}\.layers", "answer_head"),
    (r"SelfAttention\.adapter\.(down|up)", r"attn_adapter.adapters.TASK.\1_sampler"),
    (r"EncDecAttention\.adapter\.(down|up)", r"enc_attn_adapter.adapters.TASK.\1_sampler"),
    (r"DenseReluDense\.adapter\.(down|up)", r"ff_adapter.adapters.TASK.\1_sampler"),
    (r"lora_([AB])\.default\.weight", r"lora_\1s.TASK"),
    (r"(?:base_layer\.)?added_bias$", "bias"),
)
# The same of the reference's half for text alone, where they differ.
TEXT_RENAMES = (
    (r"^prefix\.embedding\.weight$", "prefix_shared"),
    (
        r"(?:SelfAttention|DenseReluDense)\.adapter\.(down|up)",
        r"adapter_controller.adapters.TASK.\1_sampler",
    ),
)
# Settings of the half for text alone that this package does not have with other values.
_BIASES = {
    "freeze_bitfit_lm_head": True,
    "freeze_bitfit_lm_head_all": False,
    "trainable_encoder_layers": None,
    "trainable_decoder_layers": None,
}
TEXT_SETTINGS: dict[str, dict[str, Any]] = {
    "adapter": {
        "non_linearity": "gelu_new",
        "add_layer_norm_before_adapter": False,
        "add_layer_norm_after_adapter": False,
        "unfreeze_lm_head": False,
    },
    "bitfit": _BIASES,
    "lora": _BIASES,
}
RECORDED_TASK = re.compile(r"(?:adapters|prompts|lora_[AB]s)\.(\w+)")


def baseline_namer(description: Any) -> Callable[[str], str]:
    """Return the function that maps our parameter names to the reference's, for a fixture."""
    trainable = " ".join(description["trainable"])
    found = RECORDED_TASK.search(trainable)
    task = found[1] if found else ""
    renames = (*TEXT_RENAMES, *RENAMES) if _is_text(description) else RENAMES

    def rename(name: str) -> str:
        if name in VISUAL:
            return VISUAL[name]
        if name.startswith("visual."):  # a bias that BitFit adds to a norm
            module, _, _ = name.rpartition(".")
            return VISUAL[f"{module}.weight"].removesuffix("weight") + "bias"
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        return name.replace("TASK", task)

    return rename


def _is_text(description: Any) -> bool:
    """Return whether a fixture is of the reference's half for text alone."""
    return visual_config(description["config"]) is None


def unsupported_setting(description: Any) -> str | None:
    """Return a setting of a fixture that this package does not have, if there is one."""
    if not _is_text(description):
        return None
    mode = description["mode"]
    settings = description["flags"] | description["config"].get(mode, {})
    for name, value in TEXT_SETTINGS.get(mode, {}).items():
        if settings.get(name, value) != value:
            return f"{name} is {settings[name]}: expected {value}"
    return None


def _options(description: Any) -> dict[str, Any]:
    """Return the options of a fixture's method."""
    mode = description["mode"]
    section = description["config"].get(mode, {})
    options = {ours: section.get(theirs) for ours, theirs in MODES[mode].items()}
    if _is_text(description):
        if mode == "adapter":
            options["places"] = ("self_attention", "feed_forward")
            options["train_norms"] = description["flags"].get("unfreeze_layer_norms", False)
        elif mode == "lora":
            options["train_biases"] = section.get("bitfit", False)
            # Their names contain "bias".
            options["train_position_tables"] = True
        elif mode == "bitfit":
            options["final_norms"] = False
    return options


@torch.no_grad()
def build_baseline(
    description: Any, state: Mapping[str, Tensor], *, attention: str
) -> tuple[JointModel, dict[str, nn.Parameter]]:
    """Return a model with the recorded weights, and its trainable parameters by our names."""
    config, mode = description["config"], description["mode"]
    rename = baseline_namer(description)
    answers = len(state["answer_head.3.bias"]) if config.get("classifier") else 0
    # The fixture records both heads' outputs of one model.
    heads = {"generating": HeadConfig(kind="generate")}
    if answers:
        heads[DEFAULT_TASK] = HeadConfig(kind="classify", answers=answers)
    method = get_method(mode)
    model = method.attach(
        backbone_from_reference(state, config, attention),
        method.options.model_validate(_options(description)),
        visual=visual_config(config),
        heads=heads,
    )
    assert isinstance(model, JointModel)
    model.to(state["shared.weight"].dtype).requires_grad_(False)
    trainable = method.trainable(model)
    for name, parameter in trainable.items():
        parameter.copy_(state[rename(name)])
        parameter.requires_grad_(True)
    # The reference uses embedding row (vocabulary - 1 - j) for image position j, so it trains with
    # the embedding; here these vectors are a separate, frozen parameter.
    if model.visual is not None:
        order = model.visual.order_MD
        order.copy_(state["shared.weight"].flip(0)[: len(order)])
        order.requires_grad_(mode == "full")
    return model.eval(), trainable


def order_gradient(model: JointModel) -> Tensor:
    """Return the image-order vectors' gradient, which the reference has in its embedding table."""
    table = model.backbone.model.get_input_embeddings().weight
    gradient = torch.zeros_like(table)
    assert model.visual is not None
    order = model.visual.order_MD
    assert order.grad is not None
    gradient[-len(order) :] = order.grad.flip(0)
    return gradient
