"""Recipes without task and data: `recipe show` and `recipe check`, and the schema for editors."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from resolved_recipes import resolve

from eval.errors import InputError
from tasks import task_names
from vl_lst.bundled import recipe_path
from vl_lst.errors import RecipeError
from vl_lst.methods import get_method, method_names
from vl_lst.recipes import (
    Recipe,
    ZeroShotRecipe,
    bundled_recipes,
    complete_recipe,
    dump_recipe,
    load_recipe,
    read_recipe_file,
    resolve_recipe,
    resolve_zero_shot_recipe,
)
from vl_lst.recipes.descriptions import describe_fields, describe_section
from vl_lst.recipes.json_schema import recipe_schema
from vl_lst.recipes.partial import PartialRecipe
from vl_lst.recipes.reading import parse_yaml
from vl_lst.recipes.validation import section_of
from vl_lst.recipes.writing import commented_yaml

INPUTS: dict[str, object] = {"data.root": "data", "backbone.name": "t5-base"}
ODD = {
    "data.prompt_prefix": '1e5: "{}" # \N{CAT FACE} \u2028',
    "data.train_file.vqa": "null",
    "data.validation_file.vqa": "a: b, [c].jsonl",
}


def read_again(recipe: PartialRecipe) -> dict[str, Any]:
    found = parse_yaml(commented_yaml(recipe), source="what was shown")
    assert isinstance(found, dict)
    return found


def inputs(task: str) -> dict[str, object]:
    return {**INPUTS, "task": task, "features": ["f.h5"] if task == "vqa" else []}


@pytest.mark.parametrize("name", bundled_recipes())
def test_a_shown_recipe_resolves_to_the_same(name: str) -> None:
    recipe = read_recipe_file(name)
    task = "rte" if name.startswith("glue-") else "vqa"
    expected = resolve_recipe(recipe, inputs(task))
    assert resolve_recipe(read_again(complete_recipe(recipe)), inputs(task)) == expected
    complete = complete_recipe(recipe, inputs(task))
    assert complete.missing == {}
    assert resolve_recipe(read_again(complete)) == expected
    # What is shown is complete, so that showing it again changes nothing.
    assert commented_yaml(complete_recipe(read_again(complete))) == commented_yaml(complete)


@pytest.mark.parametrize(
    "overrides",
    [
        {"training.steps": 7, "optimizer.warmup_steps": 3},
        {"optimizer.name": "galore", "method.name": "full", "training.precision": "bf16"},
        {"visual.pooled_grid": None, "optimizer.clip_norm": None, "optimizer.lr": 1e-7},
        {"head": "classify", "data.blind": True, "training.tensorboard": True},
        {"method.name": "qlora", "backbone.precision": "int8", "training.tf32": True},
        ODD,
    ],
    ids=["steps", "galore", "nulls", "as-a-run-writes", "quantized", "odd-texts"],
)
def test_a_shown_recipe_resolves_to_the_same_with_overrides(overrides: dict[str, object]) -> None:
    given = {**inputs("vqa"), **overrides}
    expected = resolve_recipe(read_recipe_file("lst"), given)
    assert resolve_recipe(read_again(complete_recipe(read_recipe_file("lst"), given))) == expected
    if overrides is not ODD:
        partial = complete_recipe(read_recipe_file("lst"), overrides)
        assert resolve_recipe(read_again(partial), inputs("vqa")) == expected


def test_the_recipe_of_a_run_is_shown_too(tmp_path: Path) -> None:
    dump_recipe(resolve("lst"), tmp_path / "recipe.yaml")
    complete = complete_recipe(read_recipe_file(tmp_path / "recipe.yaml"))
    assert resolve_recipe(read_again(complete)) == resolve("lst")
    zero_shot = resolve_zero_shot_recipe({}, {**inputs("vqa"), "backbone.name": "demo"})
    dump_recipe(zero_shot, tmp_path / "recipe.yaml")
    shown = complete_recipe(read_recipe_file(tmp_path / "recipe.yaml"))
    (tmp_path / "shown.yaml").write_text(commented_yaml(shown), encoding="utf-8")
    assert shown.model is ZeroShotRecipe
    assert load_recipe(tmp_path / "shown.yaml") == zero_shot


def test_what_a_run_must_be_given_is_named() -> None:
    missing = complete_recipe(read_recipe_file("lst")).missing
    assert list(missing) == ["task", "backbone.name", "data.root", "features"]
    own = {"task": "rte", "data.train_file": "a", "data.validation_file": "b"}
    assert list(complete_recipe(read_recipe_file("lst"), own).missing) == ["backbone.name"]
    partial = complete_recipe({"training": {"steps": 3}, "method": {"name": "lst"}})
    assert {"optimizer", "training.evaluation_batch_size"} <= partial.missing.keys()
    assert partial.missing["optimizer"] == "--lr or --set optimizer.lr=..."
    for given in ({}, {"optimizer": {"name": "adamw"}}):
        fields = {"method": {"name": "lst"}, "training": {"steps": 3, "evaluation_batch_size": 8}}
        with pytest.raises(RecipeError, match="missing; set it in the recipe or with --lr"):
            resolve_recipe({**fields, **given}, inputs("vqa"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optimizer.weight_decy": 1}, "no such field; did you mean optimizer.weight_decay"),
        ({"method.options.reducton": 1}, "did you mean method.options.reduction"),
        ({"head": "clasify"}, 'head.TASK: found "clasify"'),
        ({"head": {"rte": "clasify"}}, 'head.rte: found "clasify"'),
        ({"training.epochs": {"rte": 3, "sst2": 0}}, "training.epochs: found 0"),
        ({"training.epochs": {}}, "epochs is None and steps is None"),
        ({"training.precision": "fp16"}, "overflow to infinity in float16"),
        ({"training.seed": -1}, "training.seed: found -1"),
        ({"method.name": "lroa"}, "no method 'lroa'"),
        ({"optimizer.name": "lora-fa"}, "the method lst has none"),
        ({"training.steps": 3, "training.epochs": 2}, "epochs is 2 and steps is 3"),
        ({"task": "vqa", "head": "regress"}, "head.vqa: found 'regress'"),
    ],
)
def test_fields_that_are_not_valid_are_refused_without_data(
    overrides: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=message.replace(".", r"\.")):
        complete_recipe(read_recipe_file("lst"), overrides)


def test_values_for_a_task_that_does_not_exist_are_refused() -> None:
    for field in ("head", "training.epochs"):
        with pytest.raises(InputError, match="no task 'vqq'.*did you mean vqa"):
            complete_recipe(read_recipe_file("lst"), {field: {"vqq": 3}})


def undescribed(model: type[BaseModel]) -> list[str]:
    found = [name for name in model.model_fields if not describe_fields(model).get(name)]
    for field in model.model_fields.values():
        if (section := section_of(field)) is not None:
            assert describe_section(section)
            found += undescribed(section)
    return found


def test_every_field_and_option_is_described() -> None:
    assert undescribed(Recipe) == []
    for name in method_names():
        assert undescribed(get_method(name).options) == [], name


def test_the_check_of_descriptions_can_fail() -> None:
    class Section(BaseModel):
        """A section.

        Args:
            first: Its first field,
                on two lines; `None` is nothing.
                second: Not a field.

        Raises:
            third: Not a field.
        """

        first: int
        second: int
        third: int

    assert undescribed(Section) == ["second", "third"]
    expected = "Its first field, on two lines; `null` is nothing. second: Not a field."
    assert describe_fields(Section) == {"first": expected}


def test_the_schema_accepts_what_recipes_hold_and_refuses_the_rest() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for name in bundled_recipes():
        text = recipe_path(name).read_text(encoding="utf-8")
        assert list(validator.iter_errors(parse_yaml(text, source=name))) == [], name
        shown = read_again(complete_recipe(read_recipe_file(name)))
        assert list(validator.iter_errors(shown)) == [], name
    run = json.loads(resolve("lst").model_dump_json())
    assert validator.is_valid(run)
    assert validator.is_valid({"task": [*task_names()], "training": {"tf32": None}})
    for wrong in (
        {"optimiser": {}},
        {"optimizer": {"lr": 0}},
        {"head": "clasify"},
        {"head": {"vqq": "classify"}},
        {"training": {"precision": "fp16"}},
        {"task": "vqq"},
        {"method": {"options": {}}},
        {"method": {"name": "lst", "options": {"rank": 3}}},
        {"extends": "mine"},
    ):
        assert not validator.is_valid(wrong), wrong


@pytest.mark.parametrize(
    "section",
    [name for name, field in Recipe.model_fields.items() if section_of(field) is not None],
)
def test_a_section_without_lines_is_empty(section: str) -> None:
    recipe = dict(read_recipe_file("lst"))
    found = [complete_recipe(recipe | {section: value}, inputs("vqa")) for value in (None, {})]
    assert found[0] == found[1]
