"""No command overwrites a file that it reads, or a part of a run, with an output."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from command_tree import COMMANDS
from PIL import Image

from tests.board_runs import write_run
from vl_lst.cli import main
from vl_lst.cli._input_protection import protect_recipe_inputs
from vl_lst.recipes import default_recipe, dump_recipe, read_recipe_file, resolve_recipe


def write_files(folder: Path) -> None:
    """Write a file or folder of every kind that commands read."""
    Image.new("RGB", (4, 4)).save(folder / "cat.png")
    (folder / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n\0\0")
    (folder / "p.json").write_text("[]")
    (folder / "recipe.yaml").write_text("task: vqa\n")
    (folder / "own.jsonl").write_text("{}\n")
    (folder / "link.json").symlink_to("p.json")
    (folder / "data" / "vqa").mkdir(parents=True)
    (folder / "data" / "vqa" / "v2_OpenEnded_mscoco_val2014_questions.json").write_text("{}")
    (folder / "t5").mkdir()
    (folder / "t5" / "config.json").write_text("{}")
    (folder / "t5" / "tokenizer.json").write_text("{}")
    write_run(folder / "runs", "a")
    (folder / "runs" / "a" / "predictions").mkdir()
    (folder / "runs" / "a" / "predictions" / "vqa-val2014.json").write_text("[]")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


QUESTIONS = "data/vqa/v2_OpenEnded_mscoco_val2014_questions.json"


@pytest.mark.parametrize(
    "arguments",
    [
        "score --task vqa --data-root data --split val2014 --predictions p.json --json p.json",
        "score --task vqa --data-root data --split val2014 --predictions p.json --json link.json",
        "score --task vqa --data-root data --split val2014 --predictions link.json --json p.json",
        "score --task vqa --data-root data --split val2014 --check-submission p.json --json p.json",
        "score --task gqa --file own.jsonl --predictions p.json --json ./own.jsonl",
        f"score --task vqa --data-root data --split val --predictions p.json --json {QUESTIONS}",
        f"data check --task vqa --data-root data --json {QUESTIONS}",
        "features info x.h5 --json x.h5",
        "features join x.h5 y.h5 --out x.h5",
        "features import x.h5 --out x.h5",
        "features compress x.h5 --json x.h5",
        "features verify x.h5 --images . --json cat.png",
        "extract-features --images . --out y.h5 --json cat.png",
        "extract-features --images . --weights t5/config.json --out y.h5 --json t5/config.json",
        "leaderboard runs --csv runs/a/record.json",
        "leaderboard runs --out runs/a/metrics.jsonl",
        "leaderboard runs --json runs/a/predictions/vqa-val2014.json",
        "score --task gqa --file own.jsonl --predictions p.json --json runs/a/record.json",
        "predict runs/a --image cat.png --json cat.png",
        "profile --recipe recipe.yaml --backbone demo --dry-run --json recipe.yaml",
        "profile --backbone t5 --dry-run --json t5/config.json",
        "profile --backbone t5 --dry-run --json t5/tokenizer.json",
        "train --out new --recipe recipe.yaml --json recipe.yaml",
        "train --out new --task gqa --set data.train_file=own.jsonl --json own.jsonl",
        "train --out new --task vqa --json new/record.json",
        "train --out new --task vqa --json new/checkpoints/last/x.json",
        "train --out new --task gqa --train-file own.jsonl --json own.jsonl",
        "demo --out new --json new/leaderboard.html",
        "features export x.h5 --format arrow --out new --json new/export.json",
    ],
)
def test_an_input_is_never_overwritten(
    arguments: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    before = contents(tmp_path)
    assert main(arguments.split()) == 1
    assert "would replace" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_every_command_is_checked() -> None:
    assert {type(each).__name__ for each in COMMANDS.values()} == {"_Command"}


def test_an_earlier_report_in_an_input_folder_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs", "a")
    reports = {
        option: tmp_path / "runs" / name
        for option, name in (("--out", "board.html"), ("--csv", "board.csv"), ("--json", "b.json"))
    }
    arguments = [text for pair in reports.items() for text in map(str, pair)]
    for _ in range(2):
        assert main(["leaderboard", str(tmp_path / "runs"), "--title", "größer", *arguments]) == 0
    inside = tmp_path / "runs" / "a" / "scores.json"
    for _ in range(2):
        assert (
            main(["leaderboard", str(tmp_path / "runs"), *arguments[:2], "--json", str(inside)])
            == 0
        )
    assert json.loads(inside.read_bytes())


def test_a_file_named_in_a_recipe_is_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    changes = {"data.train_file": "own.jsonl", "data.validation_file": "own.jsonl"}
    named = {"task": "gqa", "features": ["x.h5"], "backbone.name": "demo", **changes}
    recipe = resolve_recipe(read_recipe_file(default_recipe("lst", "demo")), list(named.items()))
    dump_recipe(recipe, tmp_path / "mine.yaml")
    before = contents(tmp_path)
    assert main(["train", "--recipe", "mine.yaml", "--out", "new", "--json", "own.jsonl"]) == 1
    assert f"--json would replace {os.getcwd()}/own.jsonl" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_outside_of_commands_nothing_is_checked(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    check: Callable[[dict[str, str]], None] = protect_recipe_inputs
    check({"features": str(tmp_path / "x")})


@pytest.mark.parametrize("place", ["scores.json", "data/scores.json", "data/vqa/scores.json"])
def test_an_earlier_report_among_annotations_is_overwritten(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    for root in (".", "data"):
        for _ in range(2):
            assert (
                main(["data", "check", "--task", "vqa", "--data-root", root, "--json", place]) == 1
            )
            assert "would replace" not in capsys.readouterr().err
            assert json.loads((tmp_path / place).read_bytes())["task"] == "vqa"
