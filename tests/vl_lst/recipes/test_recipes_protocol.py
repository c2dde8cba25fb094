"""Runs of the bundled recipes are comparable: they differ only in the method."""

from pathlib import Path
from typing import Any

import pytest
from board_runs import make_record

from eval.leaderboard.protocol import protocol_of
from eval.leaderboard.runs import Run
from eval.run_files import RunRecord
from vl_lst.recipes import bundled_recipes, read_recipe_file, resolve_recipe

DEMO = [name for name in bundled_recipes() if name.startswith("demo")]
OF_GLUE = [name for name in bundled_recipes() if name.startswith("glue-")]
PAPER = [name for name in bundled_recipes() if name not in (*DEMO, *OF_GLUE)]
WITH_IMAGES = [
    ("task", "vqa"), ("data.root", "data"), ("features", ["a.h5"]), ("backbone.name", "t5"),
    # That of the paper's code, which its recipe keeps on every device.
    ("training.precision", "fp32"), ("training.tf32", False),
]  # fmt: skip
TEXT = [("task", "rte"), ("data.root", "data")]


@pytest.mark.parametrize(
    ("names", "given"),
    [(PAPER, WITH_IMAGES), (DEMO, WITH_IMAGES), (OF_GLUE, TEXT)],
    ids=["paper", "demo", "glue"],
)
def test_all_recipes_for_a_kind_of_backbone_have_the_same_protocol(
    names: list[str], given: list[tuple[str, Any]]
) -> None:
    protocols = {}
    for name in names:
        recipe = resolve_recipe(read_recipe_file(name), given).model_dump(mode="json")
        record = RunRecord.model_validate(make_record(recipe=recipe))
        protocols[name] = protocol_of(Run(name, Path(name), record, {}, {}), {"vqa": "val2014"})
    first = protocols[names[0]]
    assert protocols == dict.fromkeys(names, first)
