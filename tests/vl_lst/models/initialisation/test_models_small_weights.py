"""Small random weights have the statistics that the paper's code gives them for language tasks."""

import pytest
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.random_weights import backbone_config, random_backbone
from vl_lst.methods import get_method
from vl_lst.models.batch import DEFAULT_TASK
from vl_lst.models.config import HeadConfig, VisualConfig

# Large enough for the statistics.
CONFIG = T5Config(vocab_size=64, d_model=256, d_kv=32, d_ff=512, num_heads=8, num_layers=2)
VISUAL = VisualConfig(channels=8, tokens=4, pooled_grid=None)
HEADS = {DEFAULT_TASK: HeadConfig(kind="generate")}


def attach(name: str, **options: object) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    method = get_method(name)
    torch.manual_seed(11)
    model = method.attach(
        FrozenBackbone(T5ForConditionalGeneration(CONFIG)),
        method.options.model_validate(options),
        visual=None,
        heads=HEADS,
    )
    return model, method.trainable(model)


def close(value: torch.Tensor, expected: float) -> bool:
    return float(value.detach()) == pytest.approx(expected, rel=0.15)


def test_those_of_the_side_network() -> None:
    _, trainable = attach("lst", reduction=2, random_weights="small", gate_start=0.5)
    for name, parameter in trainable.items():
        if name.endswith("position_bias.table"):
            assert close(parameter.std(), 1.0)
        elif name.endswith("norm.weight"):
            assert (parameter == 1).all()
        elif name.endswith(("bias", "gates.alpha")):
            assert not parameter.any()
        else:
            assert close(parameter.std(), 0.01), name
            assert abs(float(parameter.detach().mean())) < 1e-3


@pytest.mark.parametrize("initialisation", ["magnitude", "coherent_magnitude"])
def test_weights_that_the_backbone_gives_are_not_drawn(initialisation: str) -> None:
    options = {"reduction": 2, "rungs": "linear", "initialisation": initialisation}
    derived: list[dict[str, nn.Parameter]] = []
    for random_weights in ("small", "by_width"):
        method = get_method("lst")
        model, trainable = attach("lst", random_weights=random_weights, **options)
        chosen = method.options.model_validate({**options, "random_weights": random_weights})
        method.initialise(model, chosen, iter(()))
        derived.append(trainable)
    small, by_width = derived
    same = {name for name in small if torch.equal(small[name], by_width[name])}
    assert "side.encoder.blocks.0.self_attention.qkv" in same
    assert "side.encoder.position_bias.table" in same
    # Rungs and up-projection are drawn unless the initialisation covers them.
    is_drawn = initialisation == "magnitude"
    assert ("side.encoder.rungs.weight" in same) == (not is_drawn)
    if is_drawn:
        assert close(small["side.upsample.weight"].std(), 0.01)
        assert not small["side.upsample.bias"].any()


def test_those_of_adapters() -> None:
    _, trainable = attach("adapter", reduction=4, initialisation="small")
    for name, parameter in trainable.items():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            assert close(parameter.std(), 0.01), name


def test_those_of_a_prompt_without_a_network() -> None:
    model, trainable = attach("prompt", tokens=100, middle_width=None)
    assert list(trainable) == ["prefix.embedding.weight"]
    assert close(trainable["prefix.embedding.weight"].std(), 1.0)
    assert torch.equal(model.prefix(), trainable["prefix.embedding.weight"])


@pytest.mark.parametrize(
    ("backbone", "visual", "is_small"),
    [("demo", None, True), ("demo", VISUAL, False), ("demo-image", None, False)],
)
def test_the_default_is_small_for_a_model_of_text_alone(
    backbone: str, visual: VisualConfig | None, is_small: bool
) -> None:
    method = get_method("lst")
    model = method.attach(
        random_backbone(*backbone_config(backbone)),
        method.options.model_validate({"reduction": 2}),
        visual=visual,
        heads=HEADS,
    )
    # Drawn by width, it is zero.
    assert method.trainable(model)["side.encoder.position_bias.table"].any() == is_small


def test_by_width_draws_as_before_the_option_existed() -> None:
    _, trainable = attach("lst", reduction=2, random_weights="by_width")
    assert close(trainable["side.upsample.weight"].std(), (128 * 3) ** -0.5)
    assert not trainable["side.encoder.position_bias.table"].any()
