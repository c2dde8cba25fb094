"""`vl-lst train --method NAME`, with each method's own recipe."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from tiny_run import TinyWorld, fitting_options

from eval.leaderboard.board import build_board
from eval.leaderboard.runs import find_runs
from tasks import get_task
from vl_lst.cli import main
from vl_lst.methods import method_names
from vl_lst.recipes import default_recipe, load_recipe, read_recipe_file
from vl_lst.run import load_run
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training.session import train


def arguments(world: TinyWorld, out: Path, backbone: str, method: str, *more: str) -> list[str]:
    return [
        *("train", "--task", "vqa", "--data-root", str(world.root), "--out", str(out)),
        *("--features", str(world.train_features), str(world.validation_features)),
        *("--backbone", backbone, "--method", method, "--quiet"),
        *("--set", "data.min_answer_count=1", "--set", "visual.pooled_grid=null"),
        *("--set", "training.epochs=1", "--set", "training.batch_size=8"),
        *("--set", "training.workers=0", "--set", "training.device=cpu"),
        *(*fitting_options(method), *more),
    ]


@pytest.mark.parametrize("method", method_names())
def test_every_method_is_trained_recorded_and_evaluated(
    world: TinyWorld, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "run"
    assert main(arguments(world, out, str(world.backbone), method)) == 0
    recipe = load_recipe(out / "recipe.yaml")
    assert recipe.optimizer.lr == read_recipe_file(default_recipe(method, None))["optimizer"]["lr"]
    record = read_record(RunDirectory(out))
    assert record is not None
    assert (record.method, record.status) == (method, "success")
    assert record.parameters is not None
    saved = load_file(out / "checkpoints" / "best" / "model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == record.parameters.trainable
    evaluation = load_run(out).evaluate("val2014")
    assert evaluation.score is not None
    assert evaluation.score.metrics["accuracy"] == record.scores["vqa"]["val2014"]["accuracy"]


def test_the_demo_backbone_has_its_own_recipes(world: TinyWorld, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(arguments(world, out, "demo", "lora", "--set", "training.batch_size=32")) == 0
    recipe = load_recipe(out / "recipe.yaml")
    expected = {"dropout": 0.0, "rank": 32, "alpha": 32.0}
    assert {name: recipe.method.options[name] for name in expected} == expected
    assert recipe.head == {"vqa": "classify"}


def forget_recompute(run: Path) -> None:
    """Make the recipe and the record of a run those of a version without the option."""
    recipe, record = run / "recipe.yaml", run / "record.json"
    fields = yaml.safe_load(recipe.read_text())
    del fields["method"]["options"]["recompute"]
    recipe.write_text(yaml.safe_dump(fields))
    if record.exists():
        written = json.loads(record.read_text())
        del written["recipe"]["method"]["options"]["recompute"]
        record.write_text(json.dumps(written))


def test_a_run_of_an_earlier_version_resumes_and_is_compared_as_one_that_kept_its_blocks(
    world: TinyWorld, tmp_path: Path
) -> None:
    straight, former = tmp_path / "straight", tmp_path / "former"
    more = ("--set", "training.checkpoint_every_steps=2", "--set", "training.epochs=2")
    more += ("--set", "method.options.recompute=false")
    assert main(arguments(world, straight, str(world.backbone), "lora", *more)) == 0

    def interrupt(done: int, total: int, note: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(load_recipe(straight / "recipe.yaml"), former, report=interrupt)
    forget_recompute(former)
    assert main(["train", "--out", str(former), "--resume", "--quiet"]) == 0
    one, other = (
        load_file(run / "checkpoints" / "last" / "model.safetensors") for run in (straight, former)
    )
    assert all(one[key].equal(other[key]) for key in one | other)
    forget_recompute(former)
    assert load_recipe(former / "recipe.yaml").method.options["recompute"] is False
    record = read_record(RunDirectory(former))
    evaluation = load_run(former).evaluate("val2014")
    assert record is not None
    assert evaluation.score is not None
    assert evaluation.score.metrics["accuracy"] == record.scores["vqa"]["val2014"]["accuracy"]
    found = find_runs(tmp_path, include_dirty=True)
    board = build_board(found, {"vqa": get_task("vqa").metric})
    assert [each.reason for each in board.left_out] == ["repeats former: same settings, seed 0"]


@pytest.mark.parametrize("method", ["full", "lora", "qst"])
def test_an_interrupted_run_of_another_method_resumes_to_the_same_weights(
    world: TinyWorld, tmp_path: Path, method: str
) -> None:
    """Dropout in the backbone uses the random generators that a checkpoint saves."""
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    every = ("--set", "training.checkpoint_every_steps=2", "--set", "training.epochs=2")
    assert main(arguments(world, straight, str(world.backbone), method, *every)) == 0
    recipe = load_recipe(straight / "recipe.yaml")

    def interrupt(done: int, total: int, note: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, resumed, report=interrupt)
    train(recipe, resumed, resume=True)
    for name in ("model", "training_state"):
        one, other = (
            load_file(run / "checkpoints" / "last" / f"{name}.safetensors")
            for run in (straight, resumed)
        )
        assert all(one[key].equal(other[key]) for key in one | other)
