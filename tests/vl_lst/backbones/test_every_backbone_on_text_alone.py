"""Runs on text alone next to a backbone of every family, those that read images included."""

from pathlib import Path
from typing import Any

import pytest
from tiny_backbones import one_of_each_family, tiny_backbones
from tiny_texts import TextWorld

import vl_lst
from tasks import get_task
from vl_lst.cli import main
from vl_lst.run import load_run
from vl_lst.training.session import train

TINY = tiny_backbones()
# That of the guide is known to the tests alone, and a run is loaded without them.
NAMES = [name for name in one_of_each_family() if TINY[name].family is None]


@pytest.mark.parametrize(
    ("name", "task"),
    [
        *((name, "rte") for name in NAMES),
        # The head that regresses reads the same states as one that classifies.
        *((name, "stsb") for name in ("t5", "bert")),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_bytes_and_answers(
    saved_backbones: Any, text_world: TextWorld, tmp_path: Path, name: str, task: str
) -> None:
    recipe = text_world.recipe(
        task,
        backbone__name=str(saved_backbones.folder(name)),
        head=get_task(task).heads[1],
        data__max_prompt_tokens=20,  # some of them have 40 positions
        training__epochs=1,
        training__checkpoint_every_steps=1,
    )

    def interrupt(done: int, total: int, note: str = "") -> None:
        if done == 2 and note.startswith("loss"):
            raise KeyboardInterrupt

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, whole)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, parts, report=interrupt)
    train(recipe, parts, resume=True)
    for file in ("metrics.jsonl", "checkpoints/last/model.safetensors"):
        assert (whole / file).read_bytes() == (parts / file).read_bytes()
    run = load_run(parts)
    evaluation = run.evaluate("dev")
    first = get_task(task).load(text_world.root, "dev")[0]
    one, _, two = first.text.removeprefix("sentence1: ").partition(" sentence2: ")
    assert run.predict(question=one, text2=two).answer == evaluation.predictions[first.id]


@pytest.mark.parametrize("name", [name for name in NAMES if TINY[name].has_decoder])
def test_a_backbone_answers_about_text_alone_without_training(
    saved_backbones: Any, text_world: TextWorld, tmp_path: Path, name: str
) -> None:
    command = [
        *("evaluate", str(tmp_path / "run"), "--zero-shot", "--task", "rte", "--split", "dev"),
        *("--backbone", str(saved_backbones.folder(name)), "--data-root", str(text_world.root)),
        *("--set", "data.max_prompt_tokens=20", "--set", "training.device=cpu", "--quiet"),
    ]
    assert main(command) == 0
    task = get_task("rte")
    predictions = task.read_predictions(tmp_path / "run" / "predictions" / "rte-dev.json")
    first = task.load(text_world.root, "dev")[0]
    one, _, two = first.text.removeprefix("sentence1: ").partition(" sentence2: ")
    model = vl_lst.zero_shot(saved_backbones.folder(name), task="rte")
    assert model.predict(question=one, text2=two).answer == predictions[first.id]
