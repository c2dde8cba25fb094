"""A grid becomes runs: names of folders, options that methods lack, settings of other methods."""

from collections.abc import Mapping
from typing import Any

import pytest

from vl_lst.errors import RecipeError
from vl_lst.recipes import read_recipe_file, resolve_recipe
from vl_lst.recipes.grid import parse_axis, safe_name
from vl_lst.recipes.sweep import SweepRun, expand_grid

GIVEN = (("task", "vqa"), ("features", ["a.h5"]), ("data.root", "data"))


def expand(
    *grid: str, recipes: tuple[str, ...] = (), seeds: tuple[int, ...] | None = None, **more: Any
) -> list[SweepRun]:
    options = (*GIVEN, ("backbone.name", "t5-base"))
    settings = tuple((path.replace("__", "."), value) for path, value in more.items())
    axes = [parse_axis(text) for text in grid]
    return expand_grid(recipes, axes, seeds, {None: options}, settings)[0]


def resolved(run: SweepRun) -> Any:
    return resolve_recipe(read_recipe_file(run.base), run.changes)


def names(runs: list[SweepRun]) -> list[str]:
    return [run.name for run in runs]


def test_methods_without_an_option_are_trained_once_seed_by_seed() -> None:
    runs = expand(
        "method.name=lst,full,side", "method.options.reduction=4,8", "optimizer.lr=1e-3,2e-3",
        seeds=(0, 7),
    )  # fmt: skip
    first = [
        f"{m}/reduction={r}/lr={lr}" for m in ("lst",) for r in (4, 8) for lr in (0.001, 0.002)
    ]
    full = [f"full/lr={lr}" for lr in (0.001, 0.002)]
    points = [*first, *full, *(name.replace("lst", "side") for name in first)]
    assert names(runs) == [f"{name}/seed-{seed}" for seed in (0, 7) for name in points]
    by_name = {run.name: resolved(run) for run in runs}
    side = by_name["side/reduction=8/lr=0.002/seed-7"]
    assert side.method.options["reduction"] == 8
    assert (side.optimizer.lr, side.training.seed) == (2e-3, 7)


def test_each_method_has_the_learning_rate_of_its_recipe() -> None:
    rates = {run.name: resolved(run).optimizer.lr for run in expand("method.name=lst,full,lora")}
    assert rates == {"lst/seed-0": 3e-3, "full/seed-0": 1e-4, "lora/seed-0": 3e-4}


def test_a_grid_for_one_method_replaces_that_for_all() -> None:
    runs = expand(
        "method.name=lst,lora", "optimizer.lr=1e-3", "lora:optimizer.lr=2e-4,3e-4",
        "lora:method.options.rank=8",
    )  # fmt: skip
    assert names(runs) == [
        "lst/lr=0.001/seed-0",
        "lora/lr=0.0002/rank=8/seed-0",
        "lora/lr=0.0003/rank=8/seed-0",
    ]
    assert [resolved(run).optimizer.lr for run in runs] == [1e-3, 2e-4, 3e-4]


def test_another_method_than_the_recipe_keeps_the_schedule_and_takes_its_own_rate(
    tmp_path: Any,
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "extends: lst\noptimizer: {lr: 7e-3, clip_norm: 2.0}\ntraining: {epochs: 3, seed: 5}\n"
    )
    runs = expand("method.name=lst,lora,qlora,unipt", recipes=(str(file),))
    lst, lora, qlora, unipt = map(resolved, runs)
    assert names(runs)[:2] == ["mine/lst/seed-5", "mine/lora/seed-5"]
    assert (lst.optimizer.lr, lora.optimizer.lr) == (7e-3, 3e-4)
    assert lora.method.options["rank"] == 150, "its recipe's, not the default of the option"
    # What the comparison must hold equal comes from the recipe that is given.
    assert {each.training.epochs for each in (lst, lora, qlora, unipt)} == {3}
    assert {each.optimizer.clip_norm for each in (lst, lora, qlora, unipt)} == {2.0}
    # What makes the method is its own.
    assert (lora.backbone.precision, qlora.backbone.precision) == (lst.backbone.precision, "nf4")
    assert unipt.optimizer.warmup_share == 0.05


def test_a_run_never_sets_a_field_as_an_option_and_as_a_setting() -> None:
    """`vl-lst train` refuses such commands."""
    options = (*GIVEN, ("backbone.name", "t5-base"), ("backbone.precision", "bf16"))
    axes = [parse_axis("method.name=lora,qlora")]
    runs, _ = expand_grid(("lora",), axes, None, {None: options}, ())
    for run in runs:
        assert not dict(run.options).keys() & dict(run.settings).keys()
    assert [resolved(run).backbone.precision for run in runs] == ["bf16", "nf4"]


def test_several_recipes_are_named_by_their_files() -> None:
    runs = expand(recipes=("lst-paper", "full"), seeds=(1,))
    assert names(runs) == ["lst-paper/seed-1", "full/seed-1"]
    assert [resolved(run).optimizer.lr for run in runs] == [3e-3, 1e-4]


def test_a_backbone_of_the_grid_brings_its_own_recipe() -> None:
    options: Mapping[str | None, Any] = {None: GIVEN}
    axes = [parse_axis("backbone.name=demo,t5-base"), parse_axis("method.name=lst,full")]
    runs, _ = expand_grid((), axes, None, options, ())
    assert [(run.name, run.base) for run in runs] == [
        ("lst/backbone=demo/seed-0", "demo"),
        ("full/backbone=demo/seed-0", "demo-full"),
        ("lst/backbone=t5-base/seed-0", "lst"),
        ("full/backbone=t5-base/seed-0", "full"),
    ]


def test_a_setting_applies_to_the_methods_that_have_it() -> None:
    runs = expand("method.name=lst,full", method__options__reduction=8)
    lst, full = map(resolved, runs)
    assert lst.method.options["reduction"] == 8
    assert "reduction" not in full.method.options
    with pytest.raises(RecipeError, match=r"method.options.rank: no method .*\(lst, full\)"):
        expand("method.name=lst,full", method__options__rank=8)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("optimizer.lr=1e-3,0.5", (1e-3, 0.5)),
        ("method.options.encoder_layers=[0, 2],null", ([0, 2], None)),
        ("method.options.rungs='linear',\"a,b\"", ("linear", "a,b")),
        ("a.b=true", (True,)),
    ],
)
def test_values_are_yaml(text: str, values: tuple[object, ...]) -> None:
    assert parse_axis(text).values == values


def test_folders_have_safe_names() -> None:
    assert safe_name("prompt=../../etc/passwd\n\0é") == "prompt=..-..-etc-passwd"
    assert safe_name("..") == "-"
    assert len(safe_name("x" * 500)) < 100
    assert safe_name("x" * 500) != safe_name("x" * 501)
    (run,) = expand("method.options.encoder_layers=[0, 2]", "method.options.decoder_layers=[1]")
    assert run.name == "lst/encoder_layers=0+2/decoder_layers=1/seed-0"
    (run,) = expand("optimizer.name=adamw-8bit", "visual.embedding=null")
    assert run.name == "lst/optimizer=adamw-8bit/embedding=null/seed-0"


@pytest.mark.parametrize("section", ["method", "backbone"])
def test_a_grid_of_whole_methods_is_refused(section: str) -> None:
    """Its runs would have the learning rate of the recipe's method."""
    with pytest.raises(RecipeError, match=f"such as --grid {section}.name="):
        parse_axis(f"{section}={{name: lst}},{{name: full}}")
