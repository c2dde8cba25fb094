"""Optimizers other than AdamW: equal to the original code, resumed exactly, refused if useless."""

import copy
import sys
from pathlib import Path
from typing import Any

import peft.optimizers.lorafa
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file
from tiny_run import TinyWorld
from torch import Tensor, nn

from eval.leaderboard.protocol import method_settings
from eval.leaderboard.runs import Run
from vl_lst.errors import CheckpointError, RecipeError
from vl_lst.models.low_rank import low_rank_factors
from vl_lst.recipes import Recipe
from vl_lst.recipes.schema import OptimizerSection, ProjectionSection
from vl_lst.run import load_run
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.runs.state import optimizer_tensors, restore_optimizer
from vl_lst.training.lora_fa import LoraFA
from vl_lst.training.optimizer import build_optimizer, optimizer_bytes
from vl_lst.training.projected_adamw import Apollo, GaLore, ProjectedAdamW
from vl_lst.training.session import train

# Seven steps of GaLoreAdamW (galore-torch 1.0) and APOLLOAdamW (apollo-torch 1.0.3).
GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "optimizers" / "galore_apollo.safetensors"
STEPS = 7
SMALL = ProjectionSection(rank=2, update_proj_gap=3, scale=0.25)
PROJECTIONS = {"galore": SMALL, "apollo": SMALL.model_copy(update={"scale_type": "channel"})}


def small(name: str, **changes: Any) -> OptimizerSection:
    projection = PROJECTIONS.get(name)
    return OptimizerSection(**{"name": name, "lr": 0.05, "projection": projection, **changes})


def golden_optimizer(
    name: str, parameters: dict[str, nn.Parameter], golden: dict[str, Tensor]
) -> ProjectedAdamW:
    """Return an optimizer of a golden run, with the projections of the original code."""
    matrices: dict[str, Any] = {"params": [parameters["tall"], parameters["wide"]], "rank": 3}
    if name == "galore":
        kind: type[ProjectedAdamW] = GaLore
        matrices |= {"update_proj_gap": 3, "scale": 0.25}
    else:
        kind = Apollo
        scale_type = name.removeprefix("apollo-")
        matrices |= {"update_proj_gap": 100, "scale": 4.0, "scale_type": scale_type}

    class Recorded(kind):  # type: ignore[misc,valid-type]
        def project(self, gradient_MN: Tensor, state: Any, group: Any, index: int) -> Tensor:
            start = state["step"] // group["update_proj_gap"] * group["update_proj_gap"]
            recorded = golden[f"{name}.projection.{start}.{('tall', 'wide')[index]}"]
            if name == "galore":
                # The signs of singular vectors are arbitrary.
                own = super().project(gradient_MN, state, group, index)
                torch.testing.assert_close((own @ recorded.T).abs(), torch.eye(3))
            return recorded

    groups = [matrices, {"params": [parameters["vector"]]}]
    return Recorded(groups, lr=0.05, betas=(0.9, 0.99), eps=1e-12)


@pytest.mark.parametrize("name", ["galore", "apollo-channel", "apollo-tensor"])
def test_steps_equal_those_of_the_original_code(name: str) -> None:
    golden = load_file(GOLDEN)
    shapes = ("tall", "wide", "vector")
    parameters = {shape: nn.Parameter(golden[f"start.{shape}"].clone()) for shape in shapes}
    optimizer = golden_optimizer(name, parameters, golden)
    for step in range(STEPS):
        for shape, parameter in parameters.items():
            parameter.grad = golden[f"gradient.{step}.{shape}"].clone()
        optimizer.step()
        for shape, parameter in parameters.items():
            torch.testing.assert_close(
                parameter.detach(), golden[f"{name}.{step}.{shape}"], rtol=1e-5, atol=1e-6
            )


def test_random_projections_change_at_the_interval_and_differ_between_parameters() -> None:
    gradient = torch.zeros(5, 4)
    optimizer = Apollo([{"params": [nn.Parameter(gradient)]}], lr=1.0, betas=(0, 0), eps=1.0)
    group = {"rank": 1_000, "update_proj_gap": 2}
    drawn = [optimizer.project(gradient, {"step": n}, group, 0) for n in range(3)]
    assert drawn[0].equal(drawn[1])
    assert not drawn[1].equal(drawn[2])
    assert not drawn[0].equal(optimizer.project(gradient, {"step": 0}, group, 1))
    # P^T P is the identity on average.
    torch.testing.assert_close(drawn[0].T @ drawn[0], torch.eye(4), rtol=0, atol=0.15)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(9, 64), nn.Linear(64, 128), nn.LayerNorm(128))


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(9, (6,), generator=generator)
        model(ids).square().mul(torch.rand(128, generator=generator)).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", ["galore", "apollo"])
def test_what_is_not_projected_trains_as_with_adamw(name: str) -> None:
    weights = []
    for each in ("adamw", name):
        made = model()
        made[1].requires_grad_(False)  # type: ignore[index]
        # A matrix, so that there is something to project; it has no gradient.
        made.register_module("unused", nn.Linear(8, 8, bias=False))
        trainable = {n: p for n, p in made.named_parameters() if p.requires_grad}
        optimizer = build_optimizer(made, trainable, small(each, weight_decay=0.1))
        chain = nn.Sequential(*list(made)[:3])  # type: ignore[call-overload]
        take_steps(chain, optimizer, range(5))
        weights.append(torch.cat([p.detach().flatten() for p in trainable.values()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "adamw-8bit", "galore", "apollo"])
def test_a_restored_optimizer_continues_with_the_same_bits(name: str) -> None:
    straight = model()
    trainable = dict(straight.named_parameters())
    optimizer = build_optimizer(straight, trainable, small(name))
    take_steps(straight, optimizer, range(4))
    resumed = copy.deepcopy(straight)
    saved = {key: t.clone() for key, t in optimizer_tensors(optimizer, trainable).items()}
    assert not any(type(tensor) is not Tensor for tensor in saved.values())
    named = dict(resumed.named_parameters())
    restored = build_optimizer(resumed, named, small(name))
    restore_optimizer(restored, named, saved)
    take_steps(straight, optimizer, range(4, 8))
    take_steps(resumed, restored, range(4, 8))
    assert all(trainable[key].equal(named[key]) for key in named)
    assert optimizer_bytes(restored) == optimizer_bytes(optimizer)
    other = build_optimizer(resumed, named, small("apollo" if name == "galore" else "galore"))
    with pytest.raises(CheckpointError, match="does not fit the model"):
        restore_optimizer(other, named, saved)


def test_bytes_count_what_is_kept() -> None:
    """Sizes by hand: two moments, codes with scales and tables, projections."""
    found = {}
    for name in ("adamw", "adamw-8bit", "galore", "apollo"):
        made = model()
        optimizer = build_optimizer(made, dict(made.named_parameters()), small(name))
        take_steps(made, optimizer, range(1))
        found[name] = optimizer_bytes(optimizer)
    table, matrix, others = 9 * 64, 64 * 128, 3 * 128
    plain = 8 * (table + others)
    assert found["adamw"] == plain + 8 * matrix + 5 * 4
    blocks = matrix // 256
    assert found["adamw-8bit"] == plain + 2 * (matrix + 4 * blocks + 4 * 256) + 5 * 4
    # Numbers of steps are Python integers.
    assert found["galore"] == plain + 8 * 128 * 2 + 4 * 2 * 64
    assert found["apollo"] == plain + 8 * 128 * 2 + 4


def test_eight_bits_stay_near_adamw() -> None:
    weights = []
    for name in ("adamw", "adamw-8bit"):
        made = model()
        optimizer = build_optimizer(made, dict(made.named_parameters()), small(name, lr=1e-3))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3
        take_steps(made, optimizer, range(5))
        assert optimizer.param_groups[0]["lr"] == 2e-3
        weights.append(made[1].weight.detach())  # type: ignore[index]
    change = (weights[0] - model()[1].weight).abs().mean()  # type: ignore[index]
    assert 0 < (weights[1] - weights[0]).abs().mean() < 0.1 * change


@pytest.fixture
def exact_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let peft's optimizer compute in float32; it would round its projection to bfloat16."""
    monkeypatch.setattr(peft.optimizers.lorafa, "is_bf16_available", lambda: False)


@pytest.mark.usefixtures("exact_peft")
def test_lora_fa_equals_peft() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(6, 5))
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=12, target_modules=["0"]), ours)
    theirs = copy.deepcopy(ours)
    settings: Any = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-12}
    factors = list(low_rank_factors(ours))
    assert [each.scale for each in factors] == [4.0]
    optimizer = LoraFA([{"params": [factors[0].second]}], factors, weight_decay=0.0, **settings)
    named = [(n, p) for n, p in theirs.named_parameters() if "lora" in n]
    names, parameters = zip(*named, strict=True)
    group = {"params": parameters, "names": names, "scaling_factors": [4.0, 4.0], **settings}
    reference = peft.optimizers.lorafa.LoraFAOptimizer([group])
    first = factors[0].first.detach().clone()
    for seed in range(5):
        inputs = torch.randn(7, 6, generator=torch.Generator().manual_seed(seed))
        for each, step in ((ours, optimizer.step), (theirs, reference.step)):
            each.zero_grad()
            each(inputs).square().sum().backward()
            step()
    torch.testing.assert_close(factors[0].second, parameters[1], rtol=1e-4, atol=1e-5)
    assert factors[0].first.equal(first)
    assert optimizer_bytes(optimizer) == 4 * (2 * 15 + 1 + 9)


def recipe(world: TinyWorld, name: str, **overrides: Any) -> Recipe:
    method = {"name": "lora" if name == "lora-fa" else "full", "options": {}}
    if name == "lora-fa":
        method["options"] = {"rank": 4, "dropout": 0.1, "recompute": False}
    if name in PROJECTIONS:
        overrides["optimizer__projection"] = PROJECTIONS[name].model_dump()
    return world.recipe(method=method, **{"optimizer__name": name, **overrides})


@pytest.mark.parametrize("name", ["adamw-8bit", "lora-fa", "galore", "apollo"])
def test_an_interrupted_run_ends_with_the_same_bits(
    world: TinyWorld, tmp_path: Path, name: str
) -> None:
    chosen = recipe(world, name, training__checkpoint_every_steps=2, training__epochs=1)
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    record = train(chosen, straight)

    def interrupt(done: int, total: int, note: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(chosen, resumed, report=interrupt)
    train(chosen, resumed, resume=True)
    for file in ("last/model", "last/training_state", "best/model"):
        one, other = (
            (run / "checkpoints" / f"{file}.safetensors").read_bytes()
            for run in (straight, resumed)
        )
        assert one == other
    assert record.memory_bytes is not None
    assert record.memory_bytes.optimizer_state
    assert method_settings(Run(straight.name, straight, record, {}, {}))["optimizer"] == f'"{name}"'


def test_lora_fa_trains_b_alone_and_stores_a(world: TinyWorld, tmp_path: Path) -> None:
    short = {"training__epochs": 1}
    both = train(recipe(world, "lora-fa", optimizer__name="adamw", **short), tmp_path / "lora")
    record = train(recipe(world, "lora-fa", **short), tmp_path / "run")
    saved = load_file(tmp_path / "run" / "checkpoints" / "best" / "model.safetensors")
    first = {key: tensor for key, tensor in saved.items() if ".lora_A." in key}
    start = load_file(tmp_path / "lora" / "checkpoints" / "best" / "model.safetensors")
    assert first
    assert saved.keys() == start.keys()
    assert record.parameters is not None
    assert both.parameters is not None
    fixed = sum(tensor.numel() for tensor in first.values())
    assert record.parameters.trainable == both.parameters.trainable - fixed
    assert record.memory_bytes is not None
    assert both.memory_bytes is not None
    less, more = record.memory_bytes.saved_for_backward, both.memory_bytes.saved_for_backward
    assert less is not None
    assert more is not None
    assert less["total"] < more["total"]
    # The stored A is used, whatever the random generators give.
    run = load_run(tmp_path / "run")
    held = dict(run._answerer._model.named_parameters())
    assert all(held[key].detach().equal(tensor) for key, tensor in saved.items())
    again = read_record(RunDirectory(tmp_path / "run"))
    assert again is not None
    assert again.recipe["optimizer"]["name"] == "lora-fa"


@pytest.mark.parametrize("method", ["lst", "full", "dora"])
def test_lora_fa_is_refused_without_low_rank_updates(world: TinyWorld, method: str) -> None:
    with pytest.raises(RecipeError, match=f"found lora-fa, .* the method {method} has none"):
        world.recipe(method={"name": method, "options": {}}, optimizer__name="lora-fa")


def test_a_projection_of_nothing_is_refused(world: TinyWorld, tmp_path: Path) -> None:
    chosen = world.recipe(method={"name": "full", "options": {}}, optimizer__name="galore")
    assert chosen.optimizer.projection is not None
    assert chosen.optimizer.projection.rank == 128
    with pytest.raises(RecipeError, match="found 128, .* expected at most "):
        train(chosen, tmp_path / "run")


def test_quantized_moments_without_torchao_are_refused(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "vl_lst.training.adamw_8bit", raising=False)
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(RecipeError, match="adamw-8bit needs the package torchao.*or use adamw"):
        train(recipe(world, "adamw-8bit"), tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adam"}, 'optimizer.name: found "adam"'),
        (
            {"projection": {"rank": 2}},
            "adamw does not read; .* to be galore or apollo",
        ),
        ({"projection": SMALL.model_dump()}, "which adamw does not read"),
        ({"name": "apollo", "projection": {"scale_type": None}}, "expected channel or tensor"),
        ({"name": "galore", "projection": {"scale_type": "tensor"}}, "expected null with galore"),
        ({"name": "galore", "projection": {"ranks": 2}}, "did you mean optimizer.projection.rank"),
    ],
)
def test_optimizer_fields_that_do_not_fit_are_refused(
    world: TinyWorld, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        world.recipe(**{f"optimizer__{name}": value for name, value in fields.items()})


def test_another_optimizer_drops_the_projection(world: TinyWorld) -> None:
    fields = recipe(world, "galore").model_dump(mode="json")
    assert fields["optimizer"]["projection"]["rank"] == 2
    from vl_lst.recipes import resolve_recipe

    assert resolve_recipe(fields, {"optimizer.name": "adamw"}).optimizer.projection is None
    apollo = resolve_recipe(fields, {"optimizer.name": "apollo"}).optimizer.projection
    assert apollo is not None
    assert (apollo.rank, apollo.scale_type) == (128, "channel")


@pytest.mark.parametrize(
    "overrides",
    [
        {"optimizer.projection.rank": 4, "optimizer.name": "galore"},
        {"optimizer.name": "galore", "optimizer.projection.rank": 4},
    ],
)
def test_the_projection_may_be_set_before_the_optimizer(
    world: TinyWorld, overrides: dict[str, Any]
) -> None:
    from vl_lst.recipes import resolve_recipe

    chosen = resolve_recipe(world.recipe().model_dump(mode="json"), overrides)
    assert chosen.optimizer.projection is not None
    assert chosen.optimizer.projection.rank == 4
