"""A task with three images per example trains, evaluates and predicts."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import TinyWorld

import tasks
from feature_extraction.store.store import FeatureStore
from vl_lst.errors import ModelError
from vl_lst.recipes.building import build_model
from vl_lst.run import load_run
from vl_lst.training.session import train

TRIPLE = """
from dataclasses import replace
from tasks.vqa import TASK as VQA
TASK = replace(VQA, name="triple", prompt_prefix="vqa: ", images_per_example=3)
"""


@pytest.fixture
def triple(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add a file to `tasks`, as a user would."""
    folder = tmp_path / "more_tasks"
    folder.mkdir()
    (folder / "triple.py").write_text(TRIPLE)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(folder)])
    yield
    sys.modules.pop("tasks.triple", None)


def test_a_task_with_three_images_per_example(
    world: TinyWorld, triple: None, tmp_path: Path
) -> None:
    ids = list(FeatureStore(world.train_features))
    examples = tmp_path / "examples.jsonl"
    with examples.open("w") as file:
        for number in range(8):
            line = {"id": number, "images": ids[number : number + 3], "prompt": "is it red?"}
            file.write(json.dumps({**line, "answers": ["yes" if number % 2 else "no"]}) + "\n")
    recipe = world.recipe(
        task="triple",
        data__train_file=str(examples),
        data__validation_file=str(examples),
        training__epochs=1,
    )
    train(recipe, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert len(run.evaluate("val").predictions) == 8
    assert run.predict(
        [world.image("red")] * 3, "is it red?", encoder_weights=world.encoder
    ).answer in ("yes", "no")


def test_a_run_with_one_image_refuses_a_question_about_three(
    world: TinyWorld, triple: None, tmp_path: Path
) -> None:
    train(world.recipe(training__epochs=1), tmp_path / "run")
    run = load_run(tmp_path / "run")
    with pytest.raises(ModelError, match="at most 2 images per example: found 3"):
        run.predict(
            [world.image("red")] * 3,
            "is it red?",
            task_name="triple",
            encoder_weights=world.encoder,
        )


def test_the_parameters_of_earlier_checkpoints_keep_their_shapes(world: TinyWorld) -> None:
    spec = FeatureStore(world.train_features).spec
    built = build_model(world.recipe(), spec, {"vqa": ["yes", "no"]})
    assert built.model.visual.image_order.num_embeddings == 2
