"""`vl-lst evaluate` as a user calls it."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_run import TinyWorld

from feature_extraction.encoders.encoder import build_encoder
from feature_extraction.extract import extract
from vl_lst.cli import main
from vl_lst.data.order import evaluation_batches
from vl_lst.generation.answering import Answerer
from vl_lst.run import evaluation
from vl_lst.training.session import train


def test_it_writes_predictions_and_official_scores(
    world: TinyWorld, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "scores.json"
    assert main(["evaluate", str(finished), "--split", "val2014", "--json", str(scores)]) == 0
    assert "accuracy" in capsys.readouterr().out
    document = json.loads(scores.read_text())
    inference = document.pop("inference")
    assert inference["seconds_per_example"] > 0
    assert inference["peak_bytes"] is None, "the CPU does not tell"
    assert inference["examples"] == len(document["per_example"])
    assert document.keys() == {"task", "split", "protocol", "metrics", "per_example"}
    record = json.loads((finished / "record.json").read_text())
    assert document["metrics"] == record["scores"]["vqa"]["val2014"]

    # The same file, scored without a model, gives the same scores.
    predictions = finished / "predictions" / "vqa-val2014.json"
    again = tmp_path / "again.json"
    arguments = ["score", "--task", "vqa", "--data-root", str(world.root), "--split", "val2014"]
    assert main([*arguments, "--predictions", str(predictions), "--json", str(again)]) == 0
    assert json.loads(again.read_text()) == document


def test_predictions_do_not_depend_on_the_order_of_batches(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are sorted by the length of prompts, and files are in the order of the split."""
    path = finished / "predictions" / "vqa-val2014.json"
    contents = []
    for batches in (
        evaluation_batches,
        lambda prompts, size: [[(0, row)] for row in range(len(prompts))],
    ):
        path.unlink(missing_ok=True)
        monkeypatch.setattr(evaluation, "evaluation_batches", batches)
        assert main(["evaluate", str(finished), "--split", "val2014"]) == 0
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


def test_a_predictions_folder_that_is_a_file_is_reported_before_work_begins(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(finished / "predictions")
    (finished / "predictions").write_text("")
    monkeypatch.setattr(Answerer, "answer_all", lambda *_: pytest.fail("nothing may be answered"))
    assert main(["evaluate", str(finished), "--split", "val2014"]) == 1
    error = capsys.readouterr().err
    assert f"cannot write {finished}/predictions/vqa-val2014.json" in error


def test_scores_are_printed_even_if_the_disk_is_full_at_the_end(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = (finished / "record.json").read_bytes()
    monkeypatch.setattr(os, "fsync", fail)
    assert main(["evaluate", str(finished), "--split", "val2014", "--json", "-"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["metrics"]["accuracy"] is not None
    assert f"cannot write {finished}" in captured.err
    assert "no space left on the device" in captured.err
    assert (finished / "record.json").read_bytes() == before


def test_scores_on_examples_it_trained_on_are_marked(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(finished), "--split", "train2014", "--checkpoint", "last"]) == 0
    assert "trained on 36 of the 36 examples of train2014" in capsys.readouterr().err
    assert main(["evaluate", str(finished), "--split", "val2014"]) == 0
    assert "trained on" not in capsys.readouterr().err
    assert "train2014" not in json.loads((finished / "record.json").read_text())["scores"]["vqa"]


def test_a_split_without_labels_gets_predictions_only(
    world: TinyWorld, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = tmp_path / "test2015.h5"
    extract(
        world.root / "images" / "test2015", features, build_encoder(world.encoder, device="cpu")
    )
    scores = tmp_path / "scores.json"
    arguments = ["evaluate", str(finished), "--split", "test2015", "--features", str(features)]
    assert main([*arguments, "--json", str(scores)]) == 0
    assert "no public labels: predictions only" in capsys.readouterr().err
    assert json.loads(scores.read_text())["metrics"] == {"accuracy": None}
    predictions = json.loads((finished / "predictions" / "vqa-test2015.json").read_text())
    assert [entry["question_id"] for entry in predictions] == [9000]


def test_several_processes_are_refused(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["evaluate", str(finished), "--split", "val2014"]) == 1
    assert "evaluated in one process, but WORLD_SIZE is 2" in capsys.readouterr().err


def test_features_with_other_settings_are_refused(
    world: TinyWorld, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.h5"
    encoder = build_encoder(world.encoder, image_size=96, resize="letterbox", device="cpu")
    extract(world.root / "images" / "val2014", other, encoder)
    written = finished / "predictions" / "vqa-val2014.json"
    before = written.stat()
    assert main(["evaluate", str(finished), "--split", "val2014", "--features", str(other)]) == 1
    message = capsys.readouterr().err
    assert "image_size: found 96, expected 64" in message
    assert "resize: found letterbox, expected squash" in message
    assert written.stat() == before


def test_missing_images_are_counted(
    world: TinyWorld, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = str(world.train_features)
    assert main(["evaluate", str(finished), "--split", "val2014", "--features", features]) == 1
    assert "6 of the 6 images of val2014 have no features" in capsys.readouterr().err


def test_an_incomplete_checkpoint_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "checkpoints" / "best" / "model.safetensors").unlink()
    assert main(["evaluate", str(finished), "--split", "val2014"]) == 1
    assert "is not complete: model.safetensors" in capsys.readouterr().err


def test_another_backbone_is_refused(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = shutil.copytree(world.backbone, tmp_path / "t5")
    train(world.recipe(backbone__name=str(backbone), training__epochs=1), tmp_path / "run")
    weights = load_file(backbone / "model.safetensors")
    weights["shared.weight"] += 1
    save_file(weights, backbone / "model.safetensors", {"format": "pt"})
    assert main(["evaluate", str(tmp_path / "run"), "--split", "val2014"]) == 1
    assert "other weights than the one the run was trained with" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["empty", "missing", "broken card"])
def test_a_folder_that_is_not_a_run_is_refused(
    finished: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if damage == "broken card":
        (finished / "model.json").write_text('{"answers": 3}')
    else:
        (finished / "model.json" if damage == "missing" else finished / "recipe.yaml").unlink()
    assert main(["evaluate", str(finished), "--split", "val2014"]) == 1
    assert str(finished) in capsys.readouterr().err


def test_an_unknown_split_lists_the_splits(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(finished), "--split", "validation"]) == 1
    assert "val2014" in capsys.readouterr().err
