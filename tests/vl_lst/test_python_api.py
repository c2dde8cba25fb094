"""Arguments of the public API are accepted, or refused with one sentence."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import TinyWorld

import vl_lst
from eval.errors import InputError
from vl_lst import FrozenBackbone, HeadConfig, LadderConfig, LadderModel, VisualConfig
from vl_lst.backbones.loading import LoadedBackbone
from vl_lst.errors import ModelError, RecipeError
from vl_lst.models.batch import Batch
from vl_lst.models.joint import JointBackbone, JointModel
from vl_lst.recipes import parse_override, read_recipe_file, resolve_recipe
from vl_lst.run import Run, load_run
from vl_lst.training.session import train

VISUAL = VisualConfig(channels=8, tokens=9, pooled_grid=2)
HEAD = HeadConfig(kind="generate")


@pytest.fixture(scope="module")
def run(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = str(tmp_path_factory.mktemp("runs") / "run")
    train(world.recipe(training__epochs=1), out)
    return load_run(out)


def test_a_bare_hugging_face_model_is_refused_as_a_backbone(
    make_backbone: Callable[..., FrozenBackbone],
) -> None:
    backbone = make_backbone()
    with pytest.raises(ModelError, match=r"is a T5For.*expected a FrozenBackbone; wrap.*\(model\)"):
        LadderModel(backbone.model, visual=VISUAL, ladder=LadderConfig(), head=HEAD)
    loaded = LoadedBackbone(backbone, None, "")
    with pytest.raises(ModelError, match="has one as .backbone"):
        LadderModel(loaded, visual=VISUAL, ladder=LadderConfig(), head=HEAD)
    joint = JointBackbone(make_backbone().model, dropout=0.0)
    with pytest.raises(ModelError, match="is a JointBackbone: expected a FrozenBackbone"):
        LadderModel(joint, visual=VISUAL, ladder=LadderConfig(), head=HEAD)
    with pytest.raises(ModelError, match="is a FrozenBackbone: expected a JointBackbone"):
        JointModel(backbone, visual=VISUAL, head=HEAD)


@pytest.mark.parametrize("given", ["t5-base", None, torch.nn.Linear(2, 2)])
def test_a_frozen_backbone_requires_a_hugging_face_model(given: object) -> None:
    with pytest.raises(ModelError, match=r"expected a Hugging Face .*load_backbone\(NAME\)"):
        FrozenBackbone(given)


def test_generate_requires_a_model_of_this_package(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch]
) -> None:
    with pytest.raises(ModelError, match="is a T5For.*expected a model of this package"):
        vl_lst.generate(make_backbone().model, make_batch(), max_length=4)


def test_an_incomplete_batch_is_refused(
    make_model: Callable[..., LadderModel], make_batch: Callable[..., Batch]
) -> None:
    model, batch = make_model(), make_batch()
    with pytest.raises(ModelError, match=r"labels but no weights.*torch.ones\(len\(batch\)\)"):
        model(replace(batch, weights_B=None))
    with pytest.raises(ModelError, match="no labels"):
        model(replace(batch, labels_BL=None))
    with pytest.raises(ModelError, match="no soft scores"):
        make_model("classify")(replace(batch, scores_BA=None))


def test_an_unknown_kind_of_head_is_refused() -> None:
    with pytest.raises(
        ModelError, match="'classification': expected 'classify', 'generate' or 'regress'"
    ):
        HeadConfig(kind="classification")
    with pytest.raises(ModelError, match="expected the number of answers"):
        HeadConfig(kind="classify", answers=["yes", "no"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reduction", 0),
        ("reduction", "4"),
        ("reduction", True),
        ("encoder_layers", "01"),
        ("decoder_layers", (0.5,)),
        ("rungs", "nope"),
        ("rung_place", None),
        ("image_rungs", "x"),
        ("gates", "x"),
        ("gate_temperature", 0),
        ("gate_temperature", float("nan")),
        ("gate_start", 1),
        ("dropout", 1.5),
    ],
)
def test_a_ladder_config_validates_like_a_recipe(field: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"{field} of a LadderConfig is .*: expected"):
        LadderConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", -1),
        ("tokens", "9"),
        ("grids", 0),
        ("max_images", 0),
        ("pooled_grid", 1.5),
        ("image_order_std", float("nan")),
    ],
)
def test_a_visual_config_requires_valid_numbers(field: str, value: object) -> None:
    sizes: dict[str, Any] = {"channels": 8, "tokens": 9, "pooled_grid": 2, field: value}
    with pytest.raises(ModelError, match=f"{field} of a VisualConfig is .*: expected a"):
        VisualConfig(**sizes)


def test_numpy_numbers_are_accepted() -> None:
    assert LadderConfig(reduction=np.int64(2), dropout=np.float32(0.5)).reduction == 2
    assert VisualConfig(channels=np.int64(8), tokens=np.int64(9), pooled_grid=2).pooled_tokens == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: {"features_BINF": batch.features_BINF.numpy()}, "features_BINF .* ndarray"),
        (
            lambda batch: {"features_BINF": batch.features_BINF[:, 0]},
            r"features_BINF .*\[4, 9, 8\]",
        ),
        (lambda batch: {"features_BINF": batch.features_BINF.long()}, "expected .*floating-point"),
        (lambda batch: {"features_BINF": batch.features_BINF[:2]}, "has 2 rows: expected 4"),
        (lambda batch: {"prompt_ids_UT": batch.prompt_ids_UT.float()}, "expected .*whole numbers"),
        (lambda batch: {"prompt_ids_UT": [[1, 2]]}, "prompt_ids_UT of a batch is a list"),
        (lambda batch: {"pair_index_B": None}, "one of pair_rows_P and pair_index_B"),
    ],
)
def test_a_batch_names_the_invalid_tensor(
    make_batch: Callable[..., Batch], change: Callable[[Batch], dict[str, Any]], message: str
) -> None:
    batch = make_batch()
    with pytest.raises(ModelError, match=message):
        replace(batch, **change(batch))


def test_training_targets_need_one_row_per_example(
    make_model: Callable[..., LadderModel], make_batch: Callable[..., Batch]
) -> None:
    with pytest.raises(ModelError, match="weights_B of a batch has 3 rows: expected 4"):
        make_model()(replace(make_batch(), weights_B=torch.ones(3)))


def test_a_model_requires_a_batch(make_model: Callable[..., LadderModel]) -> None:
    with pytest.raises(ModelError, match="was given a dict: expected a Batch"):
        make_model()({"input_ids": torch.ones(1, 2)})


@pytest.mark.parametrize(
    "arguments",
    [{"max_length": 0}, {"max_length": None}, {"beams": 0}, {"beams": 2.0}, {"answers": ["yes"]}],
)
def test_invalid_arguments_of_generate_are_named(
    make_model: Callable[..., LadderModel],
    make_batch: Callable[..., Batch],
    arguments: dict[str, Any],
) -> None:
    with pytest.raises(ModelError, match=f"{next(iter(arguments))} is .*: expected"):
        vl_lst.generate(make_model(), make_batch(), **{"max_length": 3, **arguments})


def test_a_backbone_is_loaded_from_a_path_or_a_string(world: TinyWorld) -> None:
    loaded = vl_lst.load_backbone(world.backbone)
    assert loaded.fingerprint == vl_lst.load_backbone(str(world.backbone)).fingerprint


@pytest.mark.parametrize("given", [None, 5, b"demo", ["demo"]])
def test_an_invalid_name_of_a_backbone_is_refused(given: object) -> None:
    with pytest.raises(ModelError, match=r"the backbone is a \w+: expected its name or folder"):
        vl_lst.load_backbone(given)


@pytest.mark.parametrize("precision", ["FP32", "fp16", None, torch.bfloat16, 4])
def test_an_unknown_precision_is_reported_with_those_that_exist(precision: object) -> None:
    with pytest.raises(ModelError, match="precision of a backbone is .*: expected one of 'fp32'"):
        vl_lst.load_backbone("demo", precision=precision)


@pytest.mark.parametrize("given", [None, 3])
def test_an_invalid_path_of_a_run_is_refused(given: object) -> None:
    with pytest.raises(InputError, match="the run's folder is .* expected a path"):
        load_run(given)


def test_features_of_another_shape_are_refused(
    make_model: Callable[..., LadderModel], make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch()
    with pytest.raises(ModelError, match=r"the shape \[9, 4\]: expected \[9, 8\]"):
        make_model()(replace(batch, features_BINF=batch.features_BINF[..., :4]))


def test_a_run_accepts_strings_for_paths(run: Run, world: TinyWorld) -> None:
    features = [str(world.train_features), str(world.validation_features)]
    found = run.evaluate("val2014", data_root=str(world.root), features=features)
    assert found.predictions == run.evaluate("val2014").predictions
    only = str(world.validation_features)
    assert run.evaluate("val2014", features=only).predictions == found.predictions
    answer = run.predict(str(world.image("red")), "is it red?", encoder_weights=str(world.encoder))
    assert answer.answer


def test_a_file_of_examples_may_be_a_string(run: Run, world: TinyWorld, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"id": 1, "images": ["COCO_val2014_000000000101"], "prompt": "is it red?"}\n')
    assert list(run.evaluate(str(path)).predictions) == ["1"]
    with pytest.raises(InputError, match="has no split 'nope'"):
        run.evaluate("nope")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"a.jpg", "b.jpg"}, "images are a set: expected one image, or a list in the order"),
        ({"left": "a.jpg"}, "images are a dict"),
        (None, "images are a NoneType"),
        (np.zeros((4, 4, 3), np.uint8), r"an image is a ndarray.*fromarray"),
        ([None], "an image is a NoneType"),
    ],
)
def test_invalid_images_are_refused(run: Run, images: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run.predict(images, "is it red?")


def test_a_generator_of_images_is_accepted(run: Run, world: TinyWorld) -> None:
    picture = Image.open(world.image("red"))
    images = (image for image in [picture])
    assert run.predict(images, "is it red?", encoder_weights=world.encoder).answer


def test_a_question_must_be_a_string(run: Run, world: TinyWorld) -> None:
    with pytest.raises(InputError, match=r"question is 3 \(int\): expected a string"):
        run.predict(world.image("red"), 3)


def test_a_recipe_accepts_python_values(world: TinyWorld) -> None:
    recipe = world.recipe(
        training__steps=np.int64(3),
        optimizer__lr=np.float32(0.5),
        features=(path for path in [world.train_features]),
        data__root=world.root,
    )
    assert (recipe.training.steps, recipe.optimizer.lr) == (3, 0.5)
    assert recipe.features == (world.train_features,)
    given = {"task": "vqa", "data.root": "data", "features": ["a.h5"], "backbone.name": "demo"}
    assert resolve_recipe(read_recipe_file("lst"), given).tasks == ("vqa",)
    with pytest.raises(RecipeError, match=r"recipe is a str: expected its fields.*read_recipe"):
        resolve_recipe("lst")
    with pytest.raises(RecipeError, match="recipe is a NoneType"):
        resolve_recipe(None)
    given = [("task", "vqa"), ("data.root", "data"), ("features", {"a.h5"}), ("backbone.name", "x")]
    with pytest.raises(RecipeError, match="features: found"):
        resolve_recipe(read_recipe_file("lst"), [*given, parse_override("training.steps=2")])
