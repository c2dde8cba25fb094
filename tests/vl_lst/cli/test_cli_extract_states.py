"""`vl-lst extract-states` and `vl-lst train --states` as a user calls them."""

import json
from pathlib import Path

import pytest
from tiny_run import TinyWorld
from tiny_texts import TextWorld

from vl_lst.cli import main
from vl_lst.recipes import load_recipe


def extract_arguments(train_arguments: list[str], out: Path) -> list[str]:
    """The same arguments with which a run trains, for another command and output."""
    arguments = ["extract-states", *train_arguments[1:]]
    arguments[arguments.index("--out") + 1] = str(out)
    return arguments


def test_the_options_of_training_extract_its_states(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "states.h5", tmp_path / "report.json"
    arguments = extract_arguments(world.train_arguments(tmp_path / "run"), out)
    assert main([*arguments, "--json", str(report)]) == 0
    printed = capsys.readouterr()
    assert "2 prompts and 2 pairs of a prompt and an answer: " in printed.err
    assert "extracting" in printed.err
    assert f"{out}: 2 prompts and 2 answers" in printed.out
    content = json.loads(report.read_text())
    assert content["file_bytes"] == out.stat().st_size
    assert content["spec"]["encoder"]["layers"] == [0, 1]
    run = tmp_path / "run"
    assert main(world.train_arguments(run, "--states", str(out))) == 0
    printed = capsys.readouterr()
    assert "reading the backbone's states from" in printed.err
    assert load_recipe(run / "recipe.yaml").states == out
    assert json.loads((run / "record.json").read_text())["states_sha256"]
    assert main(["evaluate", str(run), "--split", "val2014"]) == 0
    assert "loading the backbone" not in capsys.readouterr().err


def test_one_layer_in_16_bits_of_text_alone(text_world: TextWorld, tmp_path: Path) -> None:
    out = tmp_path / "states.h5"
    layers = ["--set", "method.options.encoder_layers=[1]"]
    layers += ["--set", "method.options.decoder_layers=[1]"]
    arguments = extract_arguments(text_world.train_arguments(tmp_path / "run"), out)
    report = ["--json", str(tmp_path / "report.json")]
    assert main([*arguments, "--layers", "1", "--precision", "bf16", *report]) == 0
    spec = json.loads((tmp_path / "report.json").read_text())["spec"]
    assert (spec["dtype"], spec["encoder"]["layers"]) == ("bfloat16", [1])
    run = text_world.train_arguments(tmp_path / "run", "--states", str(out), *layers)
    assert main(run) == 0
    # A file of a backbone in another precision tells what `auto` means.
    recipe = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert recipe.backbone.precision == spec["precision"]


def test_shards_are_joined_by_a_command(world: TinyWorld, tmp_path: Path) -> None:
    out = tmp_path / "states.h5"
    arguments = extract_arguments(world.train_arguments(tmp_path / "run", "--quiet"), out)
    shards = [tmp_path / f"states.shard-{number}-of-2.h5" for number in (1, 2)]
    for number in (1, 2):
        assert main([*arguments, "--batch-size", "1", "--shard", f"{number}/2"]) == 0
    assert main(["join-states", *map(str, shards), "--out", str(out)]) == 0
    assert main(world.train_arguments(tmp_path / "run", "--quiet", "--states", str(out))) == 0


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--method", "lora"], 1, "found lora, which runs the backbone while it trains"),
        (["--head", "generate", "--set", "head=classify"], 1, "found --head and --set head"),
        (["--layers", "one"], 2, "expected numbers with commas between them"),
        (
            ["--layers", "1", "--set", "method.options.encoder_layers=[1]"],
            1,
            "found --layers and --set method.options.encoder_layers, which set the same field",
        ),
        (["--layers", "7"], 1, "are not ascending, distinct layers"),
        (["--shard", "3/2"], 1, "expected I/N"),
        (["--split", "val"], 1, "has no split"),
        (["--split", "test2015", "--head", "generate"], 1, "no example of test2015 has an answer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_arguments_have_one_message(
    world: TinyWorld,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    code: int,
    message: str,
) -> None:
    out = tmp_path / "states.h5"
    arguments = extract_arguments(world.train_arguments(tmp_path / "run", "--quiet"), out)
    if "--method" in more:
        place = arguments.index("method.options.reduction=2") - 1
        del arguments[place : place + 2]
    assert main([*arguments, *more]) == code
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not out.exists()


def test_the_file_is_not_overwritten_by_what_it_was_made_of(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = world.train_features.read_bytes()
    arguments = extract_arguments(world.train_arguments(tmp_path / "run"), world.train_features)
    assert main(arguments) == 1
    assert "which is an input" in capsys.readouterr().err
    assert world.train_features.read_bytes() == before
