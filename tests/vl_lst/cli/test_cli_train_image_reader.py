"""`vl-lst train` next to a backbone that reads images, from feature file to prediction."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_run import TinyWorld

from feature_extraction.store import open_features
from vl_lst.cli import main
from vl_lst.recipes import load_recipe
from vl_lst.run import load_run
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training.session import train


def arguments(world: TinyWorld, out: Path, method: str, *more: str) -> list[str]:
    return [
        *("train", "--task", "vqa", "--data-root", str(world.root), "--out", str(out)),
        *("--features", str(world.train_features), str(world.validation_features)),
        *("--backbone", str(world.backbone), "--method", method, "--quiet"),
        *("--set", "data.min_answer_count=1", "--set", "training.epochs=1"),
        *("--set", "training.batch_size=8", "--set", "training.workers=0"),
        *("--set", "training.device=cpu", *more),
    ]


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("lst", "classify"),
        ("lst", "generate"),
        ("side", "classify"),
        ("full", "generate"),
        ("lora", "classify"),
        ("prompt", "generate"),
        ("prompt", "classify"),
    ],
)
def test_methods_are_trained_evaluated_and_answer_about_a_photograph(
    reader_world: TinyWorld,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    head: str,
) -> None:
    out = tmp_path / "run"
    assert main(arguments(reader_world, out, method, "--head", head)) == 0
    record = read_record(RunDirectory(out))
    assert record is not None
    assert (record.method, record.status) == (method, "success")
    assert record.parameters is not None
    saved = load_file(out / "checkpoints" / "best" / "model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == record.parameters.trainable
    assert not any(name.startswith("visual.") for name in saved)
    if method in ("lst", "side"):
        assert not any(name.startswith("backbone.") for name in saved)
        assert record.memory_bytes is not None
        saved_bytes = record.memory_bytes.saved_for_backward
        assert saved_bytes is not None
        assert saved_bytes["side encoder"] > 0
        assert not any(part.startswith("backbone") for part in saved_bytes)
    evaluation = load_run(out).evaluate("val2014")
    assert evaluation.score is not None
    assert evaluation.score.metrics["accuracy"] == record.scores["vqa"]["val2014"]["accuracy"]
    capsys.readouterr()
    # The photograph gives the same answer as its stored features.
    photograph = reader_world.root / "images" / "val2014" / "COCO_val2014_000000000101.png"
    ask = ["predict", str(out), "--image", str(photograph), "--question", "is it red?"]
    assert main([*ask, "--json", "-", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == evaluation.predictions["101001"]


@pytest.mark.parametrize("method", ["lst", "full"])
def test_an_interrupted_run_resumes_to_the_same_weights(
    reader_world: TinyWorld, tmp_path: Path, method: str
) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    every = ("--set", "training.checkpoint_every_steps=2", "--set", "training.epochs=2")
    assert main(arguments(reader_world, straight, method, *every)) == 0

    def interrupt(done: int, total: int, note: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    recipe = load_recipe(straight / "recipe.yaml")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, resumed, report=interrupt)
    train(recipe, resumed, resume=True)
    for name in ("model", "training_state"):
        one, other = (
            load_file(run / "checkpoints" / "last" / f"{name}.safetensors")
            for run in (straight, resumed)
        )
        assert all(one[key].equal(other[key]) for key in one | other)


def test_a_blind_run_sees_zeros(reader_world: TinyWorld, tmp_path: Path) -> None:
    out = tmp_path / "blind"
    blind = ("--head", "classify", "--set", "data.blind=true")
    assert main(arguments(reader_world, out, "lst", *blind)) == 0
    run = load_run(out)
    answers = {
        run.predict(reader_world.image(colour), "what color is it?").ranked[0]  # type: ignore[index]
        for colour in ("red", "green")
    }
    assert len(answers) == 1


@pytest.mark.parametrize("kind", ["fisher", "coherent_fisher", "principal"])
def test_an_initialisation_that_reads_texts_is_refused(
    reader_world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    options = ("--set", f"method.options.initialisation={kind}")
    linear = ("--set", "method.options.rungs=linear")
    assert main(arguments(reader_world, tmp_path / "run", "lst", *options, *linear)) == 1
    printed = capsys.readouterr().err
    assert f"initialisation is {kind}, which reads texts with the backbone" in printed
    assert "expected random, magnitude or coherent_magnitude" in printed


@pytest.mark.parametrize("kind", ["magnitude", "coherent_magnitude"])
def test_an_initialisation_from_weights_is_taken(
    reader_world: TinyWorld, tmp_path: Path, kind: str
) -> None:
    options = ("--set", f"method.options.initialisation={kind}")
    linear = ("--set", "method.options.rungs=linear", "--set", "training.epochs=1")
    assert main(arguments(reader_world, tmp_path / "run", "lst", *options, *linear)) == 0


def test_features_of_another_encoder_end_training_with_one_message(
    world: TinyWorld, reader_world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ("--features", str(world.train_features), str(world.validation_features))
    given = arguments(reader_world, tmp_path / "run", "lst")
    place = given.index("--features")
    assert main([*given[:place], *wrong, *given[place + 3 :]]) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert printed.count("error:") == 1
    assert "the features are not of its own image encoder" in printed
    assert "Traceback" not in printed


def test_text_only_backbones_take_language_tokens_as_features(
    world: TinyWorld, reader_world: TinyWorld, tmp_path: Path
) -> None:
    given = arguments(reader_world, tmp_path / "run", "lst", "--set", "visual.pooled_grid=null")
    place = given.index("--backbone") + 1
    assert main([*given[:place], str(world.backbone), *given[place + 1 :]]) == 0
    saved = load_file(tmp_path / "run" / "checkpoints" / "best" / "model.safetensors")
    assert any(name.startswith("visual.") for name in saved)


def test_photographs_are_extracted_with_the_encoder_of_the_backbone(
    reader_world: TinyWorld, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    given = arguments(reader_world, out, "lst", "--images", str(reader_world.root / "images"))
    place = given.index("--features")
    own = tmp_path / "own.jsonl"
    own.write_text(
        '{"id": "1", "images": ["COCO_val2014_000000000101"], "prompt": "is it red?", '
        '"answers": ["yes"]}\n'
    )
    files = ("--train-file", str(own), "--val-file", str(own), "--head", "generate")
    given = [*given[:place], *files, *given[place + 3 :]]
    place = given.index("--data-root")
    assert main([*given[:place], *given[place + 2 :]]) == 0
    spec = open_features([out / "features.h5"]).spec
    assert (spec.encoder, spec.layer) == (reader_world.encoder.name, "language")
