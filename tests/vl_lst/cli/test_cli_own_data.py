"""Your own JSON Lines from training to scores, for each task."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_mixture import score_captions_without_java
from tiny_run import COLOURS, TinyWorld

from vl_lst.cli import main
from vl_lst.recipes import load_recipe

TASKS = ("vqa", "gqa", "nlvr2", "caption")
QUICK = [
    *("--method", "lst", "--set", "method.options.reduction=2", "--set", "visual.pooled_grid=null"),
    *("--set", "training.epochs=1", "--set", "training.batch_size=8"),
    *("--set", "training.device=cpu", "--set", "training.workers=0", "--quiet"),
]


def examples(task: str, world: TinyWorld, split: str) -> list[dict[str, Any]]:
    """Lines about the world's pictures; every file has the same ids."""
    pictures = sorted((world.root / "images" / split).iterdir())
    lines = []
    for number, picture in enumerate(pictures):
        colour = list(COLOURS)[number % len(COLOURS)]
        line: dict[str, Any] = {"id": number, "images": [picture.name]}
        if task == "caption":
            line |= {"answers": [f"a {colour} thing"]}
        elif task == "nlvr2":
            other = pictures[number - 1]
            line["images"].append(other.name)
            line |= {"prompt": "a red thing", "answers": [str(colour == "red")]}
        else:
            line |= {"prompt": "what color is it?", "answers": [colour]}
        lines.append(line)
    return lines


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def files(task: str, world: TinyWorld, folder: Path) -> tuple[Path, Path]:
    train = write(folder / f"{task}-train.jsonl", examples(task, world, "train2014"))
    return train, write(folder / f"{task}-val.jsonl", examples(task, world, "val2014"))


def arguments(task: str, world: TinyWorld, out: Path, train: Path, val: Path) -> list[str]:
    return [
        *("train", "--task", task, "--out", str(out), "--backbone", str(world.backbone)),
        *("--train-file", str(train), "--val-file", str(val), *QUICK),
    ]


def features(world: TinyWorld) -> list[str]:
    return ["--features", str(world.train_features), str(world.validation_features)]


@pytest.mark.parametrize("task", TASKS)
def test_own_files_are_trained_on_evaluated_and_scored(
    task: str,
    world: TinyWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """There is no official file, and scoring the predictions alone gives the same scores."""
    score_captions_without_java(monkeypatch)
    run, (train, val) = tmp_path / "run", files(task, world, tmp_path)
    assert main([*arguments(task, world, run, train, val), *features(world)]) == 0
    recipe = load_recipe(run / "recipe.yaml")
    assert (recipe.data.root, recipe.data.train_file) == (None, {task: train})
    assert (recipe.data.train_split, recipe.data.validation_split) == (
        {task: "train"},
        {task: "val"},
    )
    evaluated, scored = tmp_path / "evaluated.json", tmp_path / "scored.json"
    assert main(["evaluate", str(run), "--split", "val", "--json", str(evaluated)]) == 0
    document = json.loads(evaluated.read_text())
    assert (
        json.loads((run / "record.json").read_text())["scores"][task]["val"]
        == (document["metrics"])
    )
    assert "own data" in document["protocol"]
    assert "trained on" not in capsys.readouterr().err, "ids are per file"

    predictions = run / "predictions" / f"{task}-val.json"
    score = ["score", "--task", task, "--file", str(val), "--predictions", str(predictions)]
    assert main([*score, "--json", str(scored)]) == 0
    del document["inference"]  # scoring predictions runs no model
    assert json.loads(scored.read_text()) == document | {"split": val.name}


def test_another_file_is_scored_or_only_predicted(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, (train, val) = tmp_path / "run", files("vqa", world, tmp_path)
    assert main([*arguments("vqa", world, run, train, val), *features(world)]) == 0
    further = [{**line, "id": f"new-{line['id']}"} for line in examples("vqa", world, "train2014")]
    path = write(tmp_path / "further.jsonl", further)
    assert main(["evaluate", str(run), "--file", str(path)]) == 0
    shown = capsys.readouterr()
    assert "vqa further.jsonl: 18 examples" in shown.out
    assert "trained on 18 of the 18 examples of further.jsonl" in shown.err
    write(path, [{name: line[name] for name in ("id", "images", "prompt")} for line in further])
    assert main(["evaluate", str(run), "--file", str(path)]) == 0
    assert "predictions only" in capsys.readouterr().err
    predicted = json.loads((run / "predictions" / "vqa-further.jsonl.json").read_text())
    assert [entry["id"] for entry in predicted] == [line["id"] for line in further]
    assert main(["evaluate", str(run), "--split", "val", "--file", str(path)]) == 2
    assert main(["evaluate", str(run), "--split", "val", "--submission"]) == 1
    assert "test servers accept answers to official examples only" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--split", "val2014", "--data-root", str(world.root)]) == 0
    assert main(["evaluate", str(run), "--task", "gqa", "--split", "val"]) == 1
    assert "--data-root" in capsys.readouterr().err


def test_features_of_photographs_are_extracted_into_the_run(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, (train, val) = tmp_path / "run", files("vqa", world, tmp_path)
    command = arguments("vqa", world, run, train, val)
    photographs = ["--images", str(world.root / "images"), "--encoder", str(world.encoder)]
    only_training = ["--images", str(world.root / "images" / "train2014"), *photographs[2:]]
    assert main([*command, *only_training]) == 1
    assert "6 of the 6 images of" in (message := capsys.readouterr().err)
    assert "COCO_val2014_000000000101" in message
    assert not run.exists(), "nothing is extracted for a run that cannot start"
    folder = tmp_path / "photographs"
    folder.mkdir()
    for split in ("train2014", "val2014"):
        (folder / split).symlink_to(world.root / "images" / split)
    photographs[1] = str(folder)
    assert main([*command, *photographs]) == 0
    assert load_recipe(run / "recipe.yaml").features == (run / "features.h5",)
    assert main(["evaluate", str(run), "--split", "val", "--quiet"]) == 0
    capsys.readouterr()
    assert main([*command, *photographs]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main([*command, *photographs, "--resume"]) == 0
    assert main([*command, *photographs, *features(world)]) == 2
    assert main([*command, "--encoder", "demo"]) == 2


def test_own_files_of_some_tasks_mix_with_official_ones_of_others(
    world: TinyWorld, tmp_path: Path
) -> None:
    run, (train, val) = tmp_path / "run", files("gqa", world, tmp_path)
    command = [
        *("train", "--task", "vqa,gqa", "--out", str(run), "--backbone", str(world.backbone)),
        *("--data-root", str(world.root), "--set", f"data.train_file.gqa={train}"),
        *("--set", f"data.validation_file.gqa={val}", *QUICK, *features(world)),
    ]
    assert main(command) == 0
    scores = json.loads((run / "record.json").read_text())["scores"]
    assert {task: set(splits) for task, splits in scores.items()} == {
        "vqa": {"val2014"},
        "gqa": {"val"},
    }


def test_missing_or_wrong_input_is_one_message(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, (train, val) = tmp_path / "run", files("vqa", world, tmp_path)

    def message(*command: str) -> str:
        capsys.readouterr()
        assert main([*command]) == 1
        return " ".join(capsys.readouterr().err.split())

    whole = [*arguments("vqa", world, run, train, val), *features(world)]
    place = whole.index("--train-file")
    neither = [*whole[:place], *whole[place + 4 :]]
    assert "found neither a data root nor files for vqa" in message(*neither)
    without_val = [*whole[: place + 2], *whole[place + 4 :]]
    assert "data.validation_file.vqa: missing" in message(*without_val)
    whole[whole.index("vqa")] = "vqa,gqa"
    assert "one file for 2 tasks" in message(*whole)
    whole[whole.index("vqa,gqa")] = "vqa"
    content = train.read_text()
    train.write_text(content + '{"id": "last", "images": []\n')
    assert f"{train}: line 19 is not valid JSON" in message(*whole)
    train.write_text(content)
    lines = examples("vqa", world, "val2014")
    write(val, [*lines[:-1], {**lines[-1], "images": ["nowhere.jpg"]}])
    again = [*whole, "--resume"]
    assert f"images of {val} have no features (first: nowhere)" in message(*again)
    write(val, [{name: line[name] for name in ("id", "images", "prompt")} for line in lines])
    assert f"{val} of vqa has no labels" in message(*again)
    val.unlink()
    assert f'no file {val}: expected examples, {{"id"' in message(*again)


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--split", "val2014"],
        ["--file", "own.jsonl", "--split", "val2014"],
        ["--file", "own.jsonl", "--strict-official"],
    ],
)
def test_score_requires_a_file_or_an_official_split(more: list[str]) -> None:
    assert main(["score", "--task", "vqa", "--predictions", "results.json", *more]) == 2


def test_scoring_own_files_needs_no_torch(tmp_path: Path) -> None:
    line = {"id": "a", "images": ["a.jpg"], "prompt": "what?", "answers": ["red"]}
    file = write(tmp_path / "own.jsonl", [line])
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps([{"id": "a", "answer": "red"}]))
    command = ["score", "--task", "vqa", "--file", str(file), "--predictions", str(predictions)]
    code = f"import sys\nfrom vl_lst.cli import main\ncode = main({command!r})\n"
    code += "sys.exit(code or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "100.00" in done.stdout


def test_cut_prompts_are_reported_unless_quiet(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = {split: examples("vqa", world, split) for split in ("train2014", "val2014")}
    for each in lines.values():
        each[0]["prompt"] = "what color is it " + "of other thing " * 200 + "?"
    train = write(tmp_path / "train.jsonl", lines["train2014"])
    val = write(tmp_path / "val.jsonl", lines["val2014"])
    run = tmp_path / "run"
    aloud = [word for word in arguments("vqa", world, run, train, val) if word != "--quiet"]
    assert main([*aloud, *features(world)]) == 0
    assert "1 of 18 prompts exceed 128 tokens and are truncated" in capsys.readouterr().err

    assert main(["evaluate", str(run), "--split", "val"]) == 0
    assert "note: 1 of 6 prompts exceed 128 tokens" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--split", "val", "--quiet"]) == 0
    assert capsys.readouterr().err == ""

    answer = tmp_path / "answer.json"
    ask = ["predict", str(run), "--image", str(world.image("red")), "--json", str(answer)]
    ask += ["--encoder-weights", str(world.encoder), "--question", "is it " + "red " * 200]
    assert main(ask) == 0
    note = "the question is truncated: found 205 tokens, expected at most 128"
    assert f"note: {note}" in capsys.readouterr().err
    assert json.loads(answer.read_text())["notes"] == [f"{note} (data.max_prompt_tokens)"]
    assert main([*ask, "--quiet"]) == 0
    assert capsys.readouterr().err == ""
