"""The command line on text alone: from annotations to the leaderboard, and what it refuses."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import TinyWorld
from tiny_texts import TextWorld

from vl_lst.cli import main

PAIR = ("--text", "a red cup", "--text2", "a red hat")


@pytest.fixture(scope="module")
def finished(text_world: TextWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the runs `rte` and `stsb`."""
    folder = tmp_path_factory.mktemp("finished")
    heads = {"rte": "classify", "stsb": "regress"}
    for task, head in heads.items():
        arguments = text_world.train_arguments(folder / task, "--head", head, task=task)
        assert main(arguments) == 0
    return folder


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that fails; return its one message on one line."""
    capsys.readouterr()
    assert main(list(arguments)) == 1
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert printed.count("error:") == 1
    return " ".join(printed.split())


def test_a_run_is_evaluated_scored_and_answers(
    finished: Path, text_world: TextWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(text_world.root)
    for task, metrics in (("rte", {"accuracy"}), ("stsb", {"pearson", "spearman"})):
        run, scores = finished / task, tmp_path / f"{task}.json"
        capsys.readouterr()
        assert main(["evaluate", str(run), "--split", "dev", "--json", str(scores)]) == 0
        assert "note: the" not in capsys.readouterr().err
        assert main(["evaluate", str(run), "--split", "paper_test"]) == 0
        chosen = "chosen by its score on 6 of the 6 examples of paper_test"
        assert chosen in " ".join(capsys.readouterr().err.split())
        evaluated = json.loads(scores.read_text())
        assert metrics | {"average"} <= evaluated["metrics"].keys()
        assert len(evaluated["per_example"]) == 12
        predictions = str(run / "predictions" / f"{task}-dev.json")
        command = ["score", "--task", task, "--data-root", root, "--split", "dev", "--quiet"]
        assert main([*command, "--predictions", predictions, "--json", str(scores)]) == 0
        assert json.loads(scores.read_text())["metrics"] == evaluated["metrics"]
        assert main(["evaluate", str(run), "--split", "test", "--quiet"]) == 0
        capsys.readouterr()
        assert main(["predict", str(run), *PAIR, "--json", "-", "--quiet"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["question"], answer["text2"], answer["images"]) == (PAIR[1], PAIR[3], [])
        assert (answer["scores"] is None) == (task == "stsb")
        names = {"0": "entailment", "1": "not_entailment"}
        assert answer.get("meaning") == (None if task == "stsb" else names[answer["answer"]])


def test_scoring_imports_no_torch(finished: Path, text_world: TextWorld) -> None:
    command = ["score", "--task", "rte", "--data-root", str(text_world.root), "--split", "dev"]
    command += ["--predictions", str(finished / "rte" / "predictions" / "rte-dev.json")]
    code = (
        "import sys; from vl_lst.cli import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    assert subprocess.run([sys.executable, "-c", code, *command]).returncode == 0


def test_a_killed_process_resumes_to_the_same_bytes(text_world: TextWorld, tmp_path: Path) -> None:
    def arguments(out: Path) -> list[str]:
        often = ("--set", "training.checkpoint_every_steps=1", "--set", "training.epochs=12")
        return text_world.train_arguments(out, *often)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(arguments(whole)) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "vl_lst", *arguments(parts)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    last = parts / "checkpoints" / "last" / "model.safetensors"
    while process.poll() is None and not last.exists():
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (parts / "record.json").exists() or (
        json.loads((parts / "record.json").read_text())["status"] != "success"
    )
    assert main([*arguments(parts), "--resume"]) == 0
    for name in ("metrics.jsonl", "checkpoints/last/model.safetensors", "predictions/rte-dev.json"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name


def test_the_page_shows_each_text_on_its_own_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, document = tmp_path / "page.html", tmp_path / "board.json"
    command = ["leaderboard", str(finished), "--include-dirty", "--out", str(page)]
    assert main([*command, "--json", str(document)]) == 0
    printed = capsys.readouterr().out
    assert "rte on dev" in printed
    assert "stsb on dev" in printed
    html = page.read_text()
    assert 'class="cards texts"' in html
    assert '<p class="prompt">sentence1: a red' in html
    assert "\nsentence2: a " in html
    assert '<div class="pictures">' not in html
    assert json.loads(document.read_text())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (PAIR[:2], "rte takes a text and a second text; found text 'a red cup'"),
        ((), "rte takes a text and a second text; found none"),
        ((*PAIR, "--image", "a.png"), "wrong number of images for rte: found 1, expected 0"),
    ],
)
def test_wrong_inputs_of_predict_get_one_message(
    finished: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    assert expected in error_of(capsys, "predict", str(finished / "rte"), *arguments)


def test_a_truncated_text_is_noted(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = ("--text", "a red cup " * 60, "--text2", "a red hat")
    assert main(["predict", str(finished / "rte"), *long]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "note: the text is truncated: found 187 tokens, expected at most 128" in printed


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("--features", "a.h5"), "expected none (leave out --features and --images)"),
        (("--images", "photos"), "expected none (leave out --features and --images)"),
        (("--images", "photos", "--encoder", "demo"), "expected none (leave out --features and"),
        (("--set", "data.blind=true"), "data.blind: found true; examples of rte have no images"),
        (("--set", "visual.pooled_grid=3"), "visual.pooled_grid: found 3; the examples have no"),
        (("--recipe", "lst-paper"), "visual.image_order_std: found 1.0; the examples have no"),
        (("--head", "regress"), "head.rte: found 'regress'; expected one of: generate, classify"),
    ],
)
def test_settings_of_images_get_one_message(
    text_world: TextWorld,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: tuple[str, ...],
    expected: str,
) -> None:
    message = error_of(capsys, *text_world.train_arguments(tmp_path / "run", *settings))
    assert expected in message
    assert "rte" in message or "examples have no images" in message


def test_features_are_refused_for_the_evaluation_of_texts(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--split", "dev", "--features", "a.h5")
    message = error_of(capsys, "evaluate", str(finished / "rte"), *more)
    assert "--features: found feature files, but examples of rte have no images" in message


def own_examples(path: Path, answers: tuple[str, ...]) -> Path:
    """Write own pairs of texts with these answers."""
    lines = [
        json.dumps({"id": f"own-{n}", "prompt": [f"a {n} cup", "a red hat"], "answers": [answer]})
        for n, answer in enumerate(answers)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("task", "head", "answers"),
    [("rte", "classify", ("0", "1", "1")), ("stsb", "regress", ("0.25", "5", "3.1"))],
)
def test_own_texts_are_trained_on_evaluated_and_scored(
    text_world: TextWorld, tmp_path: Path, task: str, head: str, answers: tuple[str, ...]
) -> None:
    train = own_examples(tmp_path / "train.jsonl", answers * 3)
    other = own_examples(tmp_path / "other.jsonl", answers)
    out = tmp_path / "run"
    arguments = text_world.train_arguments(out, "--head", head, task=task)
    place = arguments.index("--data-root")
    files = ("--train-file", str(train), "--val-file", str(other))
    assert main([*arguments[:place], *files, *arguments[place + 2 :]]) == 0
    scores = tmp_path / "scores.json"
    assert main(["evaluate", str(out), "--file", str(other), "--json", str(scores)]) == 0
    evaluated = json.loads(scores.read_text())["metrics"]
    predictions = str(out / "predictions" / f"{task}-other.jsonl.json")
    command = ["score", "--task", task, "--file", str(other), "--predictions", predictions]
    assert main([*command, "--json", str(scores)]) == 0
    assert json.loads(scores.read_text())["metrics"] == evaluated


def test_data_of_texts_are_checked_without_images(
    text_world: TextWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "check", "--task", "stsb", "--data-root", str(text_world.root)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "train, dev: all required files are present" in printed
    assert "images" not in printed
    assert "stsb have no images" in error_of(capsys, *command, "--features", "a.h5")


def test_a_model_of_texts_says_that_it_does_not_see_images(
    finished: Path, world: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own head answers the questions of another task."""
    run = str(finished / "rte")
    command = ["evaluate", run, "--task", "vqa", "--split", "val2014"]
    assert main([*command, "--data-root", str(world.root)]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "note: the model reads the text alone and does not see the images" in printed


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("--features", "a.h5"), "features: found .* examples of rte have no images"),
        (("--set", "data.blind=true"), "data.blind: found true; examples of rte have no images"),
    ],
)
def test_a_run_without_training_refuses_settings_of_images_for_text_alone(
    reader_world: TinyWorld,
    text_world: TextWorld,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: tuple[str, str],
    expected: str,
) -> None:
    command = ["evaluate", str(tmp_path / "run"), "--zero-shot", "--task", "rte", "--split", "dev"]
    command += ["--data-root", str(text_world.root), "--backbone", str(reader_world.backbone)]
    assert re.search(expected, error_of(capsys, *command, *settings))
    assert not (tmp_path / "run").exists()


def test_a_run_without_training_adds_tasks_with_and_without_images(
    reader_world: TinyWorld, text_world: TextWorld, tmp_path: Path
) -> None:
    """Next to a backbone that reads images, in either order."""
    features = [str(reader_world.train_features), str(reader_world.validation_features)]
    tasks = {
        "vqa": ["--split", "val2014", "--data-root", str(reader_world.root)],
        "rte": ["--split", "dev", "--data-root", str(text_world.root)],
    }
    for order in (("vqa", "rte"), ("rte", "vqa")):
        out = tmp_path / "-".join(order)
        for task in order:
            more = ["--features", *features] if task == "vqa" else []
            command = ["evaluate", str(out), *more[1:], "--zero-shot", "--task", task]
            chosen = ["--backbone", str(reader_world.backbone), "--set", "training.device=cpu"]
            assert main([*command, *tasks[task], *chosen, "--quiet"]) == 0
        record = json.loads((out / "record.json").read_text())
        assert record["tasks"] == list(order)
        assert record["feature_spec_sha256"] is not None
