"""The demo from images to scores, on a few images."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from tiny_mixture import score_captions_without_java

from eval.run_files import RunRecord
from feature_extraction.store import open_features
from vl_lst.demo import gallery, run, world
from vl_lst.errors import RecipeError
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe, dump_recipe, load_recipe
from vl_lst.runs.directory import recipe_differences
from vl_lst.training.session import train


def stage(_description: str) -> AbstractContextManager[Any]:
    return nullcontext(silent)


@pytest.fixture
def few_images_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = tuple(replace(split, images=12, questions_per_image=4) for split in world.SPLITS)
    pairs = tuple(replace(split, sets=2, sentences_per_set=2) for split in world.PAIR_SPLITS)
    small = partial(world.write_world, splits=splits, pair_splits=pairs)
    monkeypatch.setattr(run, "write_world", small)
    monkeypatch.setattr(run, "DEMO_SETTINGS", (*run.DEMO_SETTINGS, ("training.steps", 8)))


def train_in_turn(patch: pytest.MonkeyPatch) -> None:
    """Train in this process, and score without Java: each process loads the libraries again."""

    def train_all(
        runs: Mapping[str, tuple[Recipe, Path]],
        *,
        report: ProgressReport,
        failures: Mapping[str, Exception],
    ) -> dict[str, RunRecord]:
        return {
            name: train(recipe, folder, resume=True, report=report)
            for name, (recipe, folder) in runs.items()
        }

    patch.setattr(run, "train_in_parallel", train_all)
    score_captions_without_java(patch)


@pytest.mark.slow
@pytest.mark.usefixtures("few_images_and_steps")
def test_every_task_is_scored_with_and_without_the_image_and_an_interrupted_demo_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run.run_demo(tmp_path, stage)
    train_in_turn(monkeypatch)
    assert set(first.scores) == set(run.TASKS)
    for scores in first.scores.values():
        assert {name: len(values) for name, values in scores.items()} == {"lst": 1, "blind": 1}
    with Image.open(first.gallery) as picture:
        assert picture.width > picture.height / 2
    again = run.run_demo(tmp_path, stage, seeds=(0, 1))
    for task, scores in again.scores.items():
        for name, values in scores.items():
            assert values[:1] == first.scores[task][name], "it was there already"
            assert len(values) == 2
    folders = {path.name for path in again.runs.iterdir()}
    assert folders == {"lst", "blind", "lst-seed-1", "blind-seed-1"}


@pytest.mark.slow
@pytest.mark.usefixtures("few_images_and_steps")
def test_both_backbones_share_a_folder_and_each_reads_its_own_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_in_turn(monkeypatch)
    for backbone in ("demo", "demo-image"):
        result = run.run_demo(tmp_path, stage, ("side",), backbone=backbone)
        assert set(result.scores) == set(run.TASKS)
    folders = {path.name for path in (tmp_path / "runs").iterdir()}
    assert folders == {"side", "blind", "side-demo-image", "blind-demo-image"}
    assert open_features([tmp_path / "features.h5"]).spec.encoder == "demo"
    image_spec = open_features([tmp_path / "features-demo-image.h5"]).spec
    assert (image_spec.encoder, image_spec.layer) == ("demo-image", "language")


def test_an_unknown_backbone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no bundled backbone 'demo-imag': expected one of demo,"):
        run.run_demo(tmp_path / "demo", stage, backbone="demo-imag")
    assert not (tmp_path / "demo").exists()


def test_the_runs_of_an_earlier_version_are_resumed(tmp_path: Path) -> None:
    recipe = run._recipe("lst", 0, "demo", tmp_path, tmp_path / "features.h5")
    dump_recipe(recipe, tmp_path / "recipe.yaml")
    saved = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    del saved["data"]["max_prompt_tokens"]
    saved["data"]["min_answer_count"] = 1
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(saved))
    assert recipe_differences(load_recipe(tmp_path / "recipe.yaml"), recipe) == []


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (["lst", "lts"], "no method 'lts'"),
        (["blind"], "no method 'blind'"),
        ([""], "no method ''"),
        (["lst", "full", "lst"], "lst, full, lst repeat a value"),
    ],
)
def test_unknown_methods_are_refused_before_work_begins(
    tmp_path: Path, methods: list[str], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        run.run_demo(tmp_path / "demo", stage, methods)
    assert not (tmp_path / "demo").exists()


def test_a_repeated_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the seeds 0, 1, 0 repeat a value"):
        run.run_demo(tmp_path / "demo", stage, seeds=(0, 1, 0))
    assert not (tmp_path / "demo").exists()


def test_a_gallery_has_one_cell_per_card(tmp_path: Path) -> None:
    image = tmp_path / "shape.png"
    Image.new("RGB", (10, 10), "red").save(image)
    cards = [
        gallery.Card((image,), "what " * 30, "red", "blue"),
        gallery.Card((image, image), "Both are red.", "true", "true"),
        gallery.Card((image,), "", "a red square.", "A square.", graded=False),
        *[gallery.Card((image,), "what", "red", "blue")] * (gallery.COLUMNS - 2),
    ]
    gallery.draw_gallery(cards, tmp_path / "gallery.png")
    with Image.open(tmp_path / "gallery.png") as sheet:
        width, height = sheet.size
    assert width == gallery.COLUMNS * (gallery.SIDE + 2 * gallery.MARGIN)
    assert height == 2 * (gallery.SIDE + 2 * gallery.MARGIN + gallery.LINES * gallery.LINE)
