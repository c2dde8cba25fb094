"""Runs on a backbone of every family that reads text alone: trained, resumed and evaluated."""

from pathlib import Path
from typing import Any

import pytest
from tiny_backbones import one_of_each_family, tiny_backbones
from tiny_run import TinyWorld

from vl_lst.backbones.families import find_family
from vl_lst.cli import main
from vl_lst.training.session import train


class InterruptedRunError(Exception):
    """Raised by a progress report."""


TINY = tiny_backbones()
READERS_OF_TEXT = [
    name
    for name in one_of_each_family()
    if TINY[name].family is None
    and not find_family(TINY[name].build().config.model_type).reads_images
]


@pytest.mark.parametrize("name", READERS_OF_TEXT)
def test_an_interrupted_run_resumes_to_the_same_bytes_and_is_evaluated(
    saved_backbones: Any, world: TinyWorld, tmp_path: Path, name: str
) -> None:
    recipe = world.recipe(
        backbone__name=str(saved_backbones.folder(name)),
        head="classify",
        data__max_prompt_tokens=20,  # some of them have 40 positions
        training__epochs=1,
        training__checkpoint_every_steps=2,
    )

    def interrupt(done: int, total: int, what: str = "") -> None:
        if done == 3:
            raise InterruptedRunError

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, whole)
    with pytest.raises(InterruptedRunError):
        train(recipe, parts, report=interrupt)
    train(recipe, parts, resume=True)
    answers = "predictions/vqa-val2014.json"
    for file in ("metrics.jsonl", "checkpoints/last/model.safetensors", answers):
        assert (whole / file).read_bytes() == (parts / file).read_bytes()
    (parts / answers).unlink()
    assert main(["evaluate", str(parts), "--split", "val2014", "--quiet"]) == 0
    assert (whole / answers).read_bytes() == (parts / answers).read_bytes()
