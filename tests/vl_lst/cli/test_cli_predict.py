"""`vl-lst predict` and `load_run(...).predict`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import TinyWorld

from eval.errors import InputError
from feature_extraction.store import open_features
from vl_lst.cli import main
from vl_lst.run import load_run
from vl_lst.training.session import train


def arguments(finished: Path, image: Path, world: TinyWorld) -> list[str]:
    command = ["predict", str(finished), "--image", str(image), "--question", "is it red?"]
    return [*command, "--encoder-weights", str(world.encoder)]


def test_predict_prints_the_answer_and_the_best_five(
    world: TinyWorld, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "answer.json"
    assert main([*arguments(finished, world.image("red"), world), "--json", str(result)]) == 0
    printed = capsys.readouterr().out.splitlines()
    document = json.loads(result.read_text())
    assert document["answer"] == printed[0]
    scores = list(document["scores"].values())
    assert len(printed) == 1 + 5
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert printed[1] == f"  {scores[0]:.3f}  {document['answer']}"
    assert "probabilities" not in document, "sigmoids of single answers are no distribution"


def test_predict_answers_as_in_evaluation(world: TinyWorld, finished: Path) -> None:
    """Photographs get the same preprocessing and encoder as the stored features."""
    assert_predicts_as_evaluated(world, finished)


def test_it_answers_as_in_evaluation_from_features_of_several_crops(
    world: TinyWorld, tmp_path: Path
) -> None:
    """The grid of each crop is pooled separately, in training and prediction."""
    made = []
    for split in ("train2014", "val2014"):
        made.append(tmp_path / f"{split}.h5")
        photographs = str(world.root / "images" / split)
        extraction = ["extract-features", "--images", photographs, "--out", str(made[-1])]
        more = ["--crops", "2", "--image-size", "96", "--workers", "0", "--device", "cpu"]
        assert main([*extraction, "--encoder", str(world.encoder), *more]) == 0
    features = [str(path) for path in made]
    recipe = world.recipe(features=features, visual__pooled_grid=2)
    train(recipe, tmp_path / "run")
    assert_predicts_as_evaluated(world, tmp_path / "run")


def assert_predicts_as_evaluated(world: TinyWorld, finished: Path) -> None:
    loaded = load_run(finished)
    predictions = loaded.evaluate("train2014").predictions
    for number, colour in enumerate(("red", "green", "blue"), 1):
        answer = loaded.predict(world.image(colour), "is it red?", encoder_weights=world.encoder)
        assert answer.answer == predictions[f"{number}001"]


def test_features_of_a_photograph_equal_the_stored_ones(world: TinyWorld, finished: Path) -> None:
    loaded = load_run(finished)
    made = loaded._features([[world.image("blue")]], world.encoder)[0, 0]
    stored = open_features([world.train_features])["COCO_train2014_000000000003"]
    # The last bit may differ, because the stored features were computed in a batch.
    torch.testing.assert_close(made, torch.from_numpy(stored), rtol=2e-3, atol=1e-3)


def test_opened_images_are_accepted(world: TinyWorld, finished: Path) -> None:
    loaded = load_run(finished)
    picture = Image.fromarray(np.full((30, 30, 3), (220, 30, 30), np.uint8))
    answer = loaded.predict(picture, "is it red?", encoder_weights=world.encoder)
    assert answer.ranked is not None
    assert answer.answer == answer.ranked[0][0]


def test_a_model_that_generates_has_no_ranking(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(world.recipe(head="generate", training__epochs=1), tmp_path / "run")
    command = arguments(tmp_path / "run", world.image("red"), world)
    assert main([*command, "--json", str(tmp_path / "answer.json")]) == 0
    assert json.loads((tmp_path / "answer.json").read_text())["scores"] is None


def test_a_blind_model_needs_no_encoder(world: TinyWorld, tmp_path: Path) -> None:
    train(world.recipe(data__blind=True, training__epochs=1), tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    answers = {loaded.predict(world.image(c), "is it red?").answer for c in ("red", "blue")}
    assert len(answers) == 1


def test_the_number_of_images_must_match_the_task(world: TinyWorld, finished: Path) -> None:
    images = [world.image("red"), world.image("blue")]
    with pytest.raises(InputError, match="found 2, expected 1"):
        load_run(finished).predict(images, "is it red?", encoder_weights=world.encoder)


@pytest.mark.parametrize("question", ["", " \n", "\ud800"])
def test_a_question_must_be_a_string(world: TinyWorld, finished: Path, question: str) -> None:
    with pytest.raises(InputError, match="the question is"):
        load_run(finished).predict(world.image("red"), question, encoder_weights=world.encoder)


def test_problems_are_one_message(
    world: TinyWorld, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(finished, tmp_path / "none.jpg", world)) == 1
    assert "none.jpg" in capsys.readouterr().err
    assert main(arguments(tmp_path, world.image("red"), world)) == 1
    assert "holds no run" in capsys.readouterr().err
    assert main(arguments(finished, world.image("red"), world)[:-2]) == 1
    assert "give its folder" in capsys.readouterr().err
