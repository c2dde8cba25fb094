"""AdamW: decayed parameters, and the learning rate of each step."""

import pytest
import torch
from tiny_run import TinyWorld

from feature_extraction.store import open_features
from vl_lst.recipes.building import BuiltModel, build_model
from vl_lst.recipes.schema import OptimizerSection
from vl_lst.training.optimizer import build_optimizer, decayed_names, learning_rate

SETTINGS = OptimizerSection(lr=1.0, warmup_share=0.2, weight_decay=0.5)


@pytest.fixture(scope="module")
def built(world: TinyWorld) -> BuiltModel:
    spec = open_features([world.train_features]).spec
    return build_model(world.recipe(), spec, {"vqa": ["yes", "no"]})


def test_norms_gates_biases_and_position_biases_are_not_decayed(built: BuiltModel) -> None:
    decayed = decayed_names(built.model, built.trainable)
    exempt = built.trainable.keys() - decayed
    assert {
        "visual.feature_norm.weight",
        "visual.feature_projection.bias",
        "side.encoder.gates.alpha",
        "side.encoder.rungs.bias",
        "side.encoder.position_bias.table",
        "side.decoder.final_norm.weight",
        "classifiers.vqa.layers.2.weight",
    } <= exempt
    assert {
        "visual.feature_projection.weight",
        "side.encoder.rungs.weight",
        "side.encoder.blocks.0.self_attention.qkv",
        "classifiers.vqa.layers.3.weight",
    } <= decayed
    assert all(built.trainable[name].ndim >= 2 for name in decayed)


def test_reference_decay_exempts_only_biases(built: BuiltModel) -> None:
    """The reference exempts names with "bias"; the names of T5's norms match none of its rules."""
    exempt = built.trainable.keys() - decayed_names(built.model, built.trainable, "reference")
    assert exempt == {
        name for name in built.trainable if name.endswith(".bias") or "position_bias" in name
    }
    settings = SETTINGS.model_copy(update={"decay": "reference"})
    groups = build_optimizer(built.model, built.trainable, settings).param_groups
    assert [len(group["params"]) for group in groups] == [
        len(built.trainable) - len(exempt),
        len(exempt),
    ]


def test_gates_per_channel_are_not_decayed(world: TinyWorld) -> None:
    spec = open_features([world.train_features]).spec
    recipe = world.recipe(method__options__gates="channel")
    made = build_model(recipe, spec, {"vqa": ["yes", "no"]})
    assert made.trainable["side.encoder.gates.alpha"].shape == (2, 8)
    assert "side.encoder.gates.alpha" not in decayed_names(made.model, made.trainable)


def test_the_optimizer_holds_exactly_the_trainable_parameters(built: BuiltModel) -> None:
    groups = build_optimizer(built.model, built.trainable, SETTINGS).param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    held = [parameter for group in groups for parameter in group["params"]]
    assert len(held) == len(built.trainable)
    assert {id(p) for p in held} == {id(p) for p in built.trainable.values()}


def test_exactly_the_trainable_set_requires_grad(built: BuiltModel) -> None:
    names = {name for name, p in built.model.named_parameters() if p.requires_grad}
    assert names == built.trainable.keys()
    assert not any(name.startswith("backbone.") for name in names)


def test_initial_weights_depend_only_on_the_seed(world: TinyWorld) -> None:
    spec = open_features([world.train_features]).spec

    def weights(seed: int) -> torch.Tensor:
        made = build_model(world.recipe(training__seed=seed), spec, {"vqa": ["yes", "no"]})
        return torch.cat([p.detach().flatten() for p in made.trainable.values()])

    first = weights(1)
    torch.randn(3)
    assert torch.equal(weights(1), first)
    assert not torch.equal(weights(2), first)


def test_the_learning_rate_rises_then_falls_linearly() -> None:
    rates = [learning_rate(step, 10, SETTINGS) for step in range(11)]
    assert rates == pytest.approx([0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0])


def test_without_warm_up_it_starts_at_the_maximum() -> None:
    settings = SETTINGS.model_copy(update={"warmup_share": 0.0})
    assert learning_rate(0, 4, settings) == 1.0
    always = SETTINGS.model_copy(update={"warmup_share": 1.0})
    assert learning_rate(3, 4, always) == 0.75


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        # The paper's RTE runs have as many steps as their warm-up, so they never decay.
        (4, [0, 0.25, 0.5, 0.75]),
        (2, [0, 0.25]),
        (6, [0, 0.25, 0.5, 0.75, 1, 0.5]),
    ],
)
def test_the_warm_up_may_be_a_number_of_steps(total: int, expected: list[float]) -> None:
    settings = OptimizerSection(lr=1.0, warmup_share=None, warmup_steps=4)
    assert [learning_rate(step, total, settings) for step in range(total)] == expected


def test_a_warm_up_of_no_steps_starts_at_the_maximum() -> None:
    settings = OptimizerSection(lr=1.0, warmup_share=None, warmup_steps=0)
    assert learning_rate(0, 4, settings) == 1.0
