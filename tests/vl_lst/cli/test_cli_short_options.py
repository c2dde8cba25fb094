"""Short options of `vl-lst train`, such as `--epochs`, set fields of the recipe like `--set`."""

from pathlib import Path

import pytest
from tiny_texts import TextWorld

from vl_lst.cli import main
from vl_lst.cli._recipe_options import option_changes, refuse_settings_given_twice
from vl_lst.option_names import FIELD_OF_OPTION
from vl_lst.recipes import load_recipe

SHORT = {
    "--steps": ("3", "training.epochs=2"),
    "--lr": ("2e-3", ""),
    "--batch-size": ("4", "training.batch_size=8"),
    "--seed": ("7", ""),
    "--device": ("cpu", "training.device=cpu"),
    "--precision": ("fp32", ""),
}


def without_settings(arguments: list[str], *settings: str) -> list[str]:
    """The arguments without `--set` of these."""
    kept = list(arguments)
    for setting in settings:
        place = kept.index(setting)
        del kept[place - 1 : place + 1]
    return kept


def test_short_options_are_recorded_like_settings(text_world: TextWorld, tmp_path: Path) -> None:
    replaced = [setting for _, setting in SHORT.values() if setting]
    plain = without_settings(text_world.train_arguments(tmp_path / "short"), *replaced)
    short = [word for name, (value, _) in SHORT.items() for word in (name, value)]
    assert main([*plain, *short]) == 0
    plain[plain.index(str(tmp_path / "short"))] = str(tmp_path / "set")
    long = [
        word
        for name, (value, _) in SHORT.items()
        for word in ("--set", f"{FIELD_OF_OPTION[name]}={value}")
    ]
    assert main([*plain, *long]) == 0
    texts = [(tmp_path / name / "recipe.yaml").read_text() for name in ("short", "set")]
    assert texts[0] == texts[1]
    recipe = load_recipe(tmp_path / "short" / "recipe.yaml")
    assert (recipe.training.steps, recipe.training.epochs) == (3, None)
    assert (recipe.training.seed, recipe.optimizer.lr) == (7, 2e-3)
    assert recipe.training.batch_size == {"rte": 4}
    # A run keeps its seed when it is resumed.
    assert main(["train", "--out", str(tmp_path / "short"), "--resume", "--seed", "8"]) == 1


def test_epochs_replace_the_steps_of_a_recipe(text_world: TextWorld, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: lst\ntraining: {steps: 7}\n")
    plain = without_settings(text_world.train_arguments(tmp_path / "run"), "training.epochs=2")
    assert main([*plain, "--recipe", str(file), "--epochs", "1"]) == 0
    training = load_recipe(tmp_path / "run" / "recipe.yaml").training
    assert (training.epochs, training.steps) == (1, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "3"], "found --epochs and --set training.epochs, which set the same field"),
        (
            ["--lr", "1", "--set", "optimizer={lr: 0.1}"],
            "found --lr and --set optimizer, which set the same field",
        ),
        (
            ["--device", "cpu", "--batch-size", "4"],
            "found --batch-size and --set training.batch_size, --device and --set training.device",
        ),
        (
            ["--head", "generate", "--set", "head=classify"],
            "found --head and --set head, which set the same field",
        ),
        (["--set", "backbone={name: demo}"], "found --backbone and --set backbone"),
        (["--set", "data.root=elsewhere"], "found --data-root and --set data.root"),
        (["--set", "task=stsb"], "found --task and --set task"),
        (["--set", "method.name=full"], "found --method and --set method.name"),
        (
            ["--images", "photos", "--set", "features=[a.h5]"],
            "found --images and --set features",
        ),
        (["--steps", "3"], "epochs is 2 and steps is 3; expected exactly one"),
        (["--seed", "-1"], "training.seed: found -1; expected greater than or equal to 0"),
        (["--lr", "nan"], "optimizer.lr: found NaN; expected a finite number"),
    ],
)
def test_options_that_conflict_or_are_out_of_range_are_refused(
    words: list[str],
    message: str,
    text_world: TextWorld,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*text_world.train_arguments(tmp_path / "run"), *words]) == 1
    found = " ".join(capsys.readouterr().err.split())
    assert found.count("error: ") == 1
    assert all(part in found for part in message.split(", "))
    assert not (tmp_path / "run").exists()


def test_options_become_plain_values_and_those_not_given_are_left_out() -> None:
    options = {"--features": [Path("a.h5"), Path("b.h5")], "--data-root": Path("data")}
    not_given = {"--head": None, "--train-file": None}
    assert option_changes({**options, **not_given, "--seed": 0}) == [
        ("features", ["a.h5", "b.h5"]),
        ("data.root", "data"),
        ("training.seed", 0),
    ]
    assert option_changes({"--features": []}) == []


def test_a_setting_for_one_task_may_refine_an_option_for_all() -> None:
    refuse_settings_given_twice({"--head": "generate"}, [("head.rte", "classify")])
    refuse_settings_given_twice(
        {"--head": None, "--features": []}, [("head", "x"), ("features", [])]
    )
