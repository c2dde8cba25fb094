"""From a trained run to a file for the test server, and from its features to a data check."""

from pathlib import Path

import pytest
from tiny_run import TinyWorld

from feature_extraction.encoders.encoder import build_encoder
from feature_extraction.extract import extract
from vl_lst.cli import main
from vl_lst.training.session import train


def test_a_run_writes_a_submission_that_passes_the_check(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, features = tmp_path / "my_run", tmp_path / "test2015.h5"
    train(world.recipe(training__epochs=1), run)
    extract(world.root / "images" / "test2015", features, build_encoder(world.tower, device="cpu"))
    arguments = ["evaluate", str(run), "--split", "test2015", "--features", str(features)]
    assert main([*arguments, "--submission"]) == 0
    file = run / "submission" / "vqa_OpenEnded_mscoco_test2015_my-run_results.json"
    assert f"submission: {file} (1 answers of test2015, for EvalAI" in capsys.readouterr().out
    check = ["score", "--task", "vqa", "--data-root", str(world.root), "--split", "test2015"]
    assert main([*check, "--check-submission", str(file)]) == 0


def test_a_data_check_finds_images_without_features(
    world: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    check = ["data", "check", "--task", "vqa", "--data-root", str(world.root), "--features"]
    both = [str(world.train_features), str(world.validation_features)]
    assert main([*check, *both]) == 0
    assert main([*check, both[0]]) == 1
    assert "6 of the 6 images of val2014 have no features" in capsys.readouterr().err
