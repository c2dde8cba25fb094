"""`vl-lst train` as a user calls it."""

import importlib
import json
import os
import signal
from pathlib import Path

import pytest
from tiny_run import TinyWorld

from vl_lst.cli import main
from vl_lst.launch import STOP_SIGNALS
from vl_lst.recipes import load_recipe


def test_training_prints_the_score_and_writes_the_record(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, record_file = tmp_path / "run", tmp_path / "record.json"
    assert main(world.train_arguments(out, "--json", str(record_file))) == 0
    printed = capsys.readouterr()
    assert "vqa val2014: accuracy" in printed.out
    assert "training vqa: 10/10 loss" in printed.err
    record = json.loads(record_file.read_text())
    assert record["status"] == "success"
    assert record["scores"] == json.loads((out / "record.json").read_text())["scores"]
    recipe = load_recipe(out / "recipe.yaml")
    assert recipe.features == (world.train_features, world.validation_features)


def test_features_can_be_given_in_two_ways(world: TinyWorld, tmp_path: Path) -> None:
    arguments = world.train_arguments(tmp_path / "run", "--quiet", "--set", "training.epochs=1")
    place = arguments.index(str(world.validation_features))
    assert main([*arguments[:place], "--features", *arguments[place:]]) == 0


def test_a_method_chosen_by_set_uses_its_own_recipe(world: TinyWorld, tmp_path: Path) -> None:
    """The same as with --method; not the ladder's learning rate."""
    rates = {}
    for name, chosen in (
        ("option", ["--method", "bitfit"]),
        ("setting", ["--set", "method.name=bitfit"]),
    ):
        arguments = world.train_arguments(tmp_path / name, "--quiet")
        for ladders in (["--method", "lst"], ["--set", "method.options.reduction=2"]):
            place = arguments.index(ladders[1]) - 1
            assert arguments[place : place + 2] == ladders
            del arguments[place : place + 2]
        assert main([*arguments, *chosen, "--set", "training.epochs=1"]) == 0
        recipe = load_recipe(tmp_path / name / "recipe.yaml")
        assert recipe.method.name == "bitfit"
        rates[name] = recipe.optimizer
    assert rates["option"] == rates["setting"]


def test_a_run_resumes_without_repeating_its_options(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = world.train_arguments(out, "--quiet")
    assert main([*arguments, "--resume"]) == 0, "a new run starts"
    assert main(arguments) == 1
    assert "pass --resume" in capsys.readouterr().err
    assert main(["train", "--out", str(out), "--resume", "--quiet"]) == 0
    assert main([*arguments, "--resume"]) == 0, "repeating them is allowed too"
    assert main([*arguments, "--resume", "--set", "optimizer.lr=0.5"]) == 1
    assert "optimizer.lr: 0.003 in the run, 0.5 given" in capsys.readouterr().err


def test_a_failed_start_does_not_block_the_folder(world: TinyWorld, tmp_path: Path) -> None:
    """If nothing was trained, the corrected command needs neither --resume nor another --out."""
    arguments = world.train_arguments(tmp_path / "run", "--quiet", "--set", "training.epochs=1")
    slip = [word if word != str(world.root) else str(tmp_path) for word in arguments]
    assert main(slip) == 1
    assert main(arguments) == 0
    assert load_recipe(tmp_path / "run" / "recipe.yaml").data.root == world.root


def test_missing_or_wrong_input_is_one_message(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert main(["train", "--out", out]) == 1
    message = capsys.readouterr().err
    assert "task: missing" in message
    assert main(["train", "--task", "vqa", "--data-root", str(tmp_path), "--out", out]) == 1
    assert "features: missing; set it in the recipe or with --features" in capsys.readouterr().err
    assert main(world.train_arguments(tmp_path / "run", "--set", "optimizer.lr=-1")) == 1
    assert "optimizer.lr: found -1; expected greater than 0" in capsys.readouterr().err
    assert main(world.train_arguments(tmp_path / "run", "--set", "training.precision=fp16")) == 1
    assert "bfloat16" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["train"]) == 2


def test_interrupting_exits_with_130(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vl_lst.training.trainer.Trainer._train_step", interrupt)
    assert main(world.train_arguments(tmp_path / "run", "--quiet")) == 130
    assert json.loads((tmp_path / "run" / "record.json").read_text())["status"] == "cancelled"


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_a_run_with_a_quantized_backbone_is_evaluated_as_it_was_trained(
    world: TinyWorld, tmp_path: Path, precision: str
) -> None:
    """Initial weights are cut out of the backbone before it is quantized."""
    out, again = tmp_path / "run", tmp_path / "again.json"
    arguments = world.train_arguments(out, "--quiet", "--backbone-precision", precision)
    assert main([*arguments, "--set", "method.options.initialisation=magnitude"]) == 0
    record = json.loads((out / "record.json").read_text())
    trained = record["scores"]["vqa"]["val2014"]["accuracy"]
    assert record["memory_bytes"]["parameters"] < 4 * record["parameters"]["total"]
    assert main(["evaluate", str(out), "--split", "val2014", "--json", str(again), "--quiet"]) == 0
    assert json.loads(again.read_text())["metrics"]["accuracy"] == trained


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_while_loading_ends_with_the_code_of_preemption(
    command: str,
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def receive(**_: object) -> None:
        os.kill(os.getpid(), number)

    module = importlib.import_module(f"vl_lst.cli.{command}")
    monkeypatch.setattr(module, "announce_imports", receive)
    former = [signal.getsignal(each) for each in STOP_SIGNALS]
    assert main([command, "--out", str(tmp_path / "runs")]) == 75
    assert f"stopped by {number.name}" in capsys.readouterr().err
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == former
