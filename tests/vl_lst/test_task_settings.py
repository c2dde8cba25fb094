"""A task with the settings of a run, from complete, incomplete and damaged recipes."""

from pathlib import Path
from typing import Any

import pytest

from eval.errors import InputError
from tasks import get_task
from vl_lst.recipes import read_recipe_file, resolve_recipe
from vl_lst.task_settings import configure_task

GIVEN = {"task": "gqa,vqa", "data.root": "data", "features": ["a.h5"], "backbone.name": "demo"}


def test_a_task_has_the_prefix_and_the_limits_of_its_run() -> None:
    changes = {"data.max_prompt_tokens.vqa": 30, "generation.max_length.gqa": 25}
    recipe = resolve_recipe(read_recipe_file("lst-paper"), GIVEN | changes)
    gqa, vqa = (recipe.configured_task(name) for name in ("gqa", "vqa"))
    assert (gqa.prompt_prefix, vqa.prompt_prefix) == ("gpa: ", "vqa: ")
    assert (gqa.max_prompt_tokens, vqa.max_prompt_tokens) == (20, 30)
    assert (gqa.max_answer_tokens, vqa.max_answer_tokens) == (25, 10)
    other = recipe.configured_task("nlvr2")
    assert (other.prompt_prefix, other.max_prompt_tokens) == ("nlvr: ", 20), "the head is GQA's"


def test_own_files_are_splits_unless_the_official_ones_are_asked_for() -> None:
    files = {"data.train_file.vqa": "a.jsonl", "data.validation_file.vqa": "b.jsonl"}
    recipe = resolve_recipe(read_recipe_file("lst"), GIVEN | files)
    assert recipe.configured_task("vqa").splits == ("train", "val")
    assert recipe.configured_task("vqa", official=True).splits == get_task("vqa").splits
    assert recipe.configured_task("gqa").splits == get_task("gqa").splits


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"task": "vqa"},
        {"task": 3, "data": [], "generation": None},
        {"data": {"prompt_prefix": 3, "train_file": {"vqa": 1}, "max_prompt_tokens": 20}},
        {"data": {"train_file": {"vqa": "a.jsonl"}, "validation_file": {"vqa": None}}},
    ],
)
def test_fields_that_are_missing_or_damaged_keep_the_tasks_own_value(
    recipe: dict[str, Any],
) -> None:
    """As in records of earlier versions, whose examples a leaderboard shows."""
    task, own = configure_task(recipe, "vqa"), get_task("vqa")
    assert (task.splits, task.prompt_prefix) == (own.splits, own.prompt_prefix)
    assert task.max_prompt_tokens == own.max_prompt_tokens


def test_a_record_alone_is_enough_to_find_own_files(tmp_path: Path) -> None:
    fields = {"train_file": {"vqa": "a.jsonl"}, "validation_file": {"vqa": "b.jsonl"}}
    assert configure_task({"data": fields}, "vqa").splits == ("train", "val")


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(InputError, match="no task 'vqq'"):
        configure_task({}, "vqq")


@pytest.mark.parametrize(("given", "expected"), [({}, "mnli "), ({"mnli": ""}, "")])
def test_a_task_without_training_has_the_prefix_its_model_was_trained_with(
    given: dict[str, str], expected: str
) -> None:
    recipe = {"task": "mnli", "data": {"prompt_prefix": given}}
    assert configure_task(recipe, "ax").prompt_prefix == expected
    assert configure_task(recipe, "rte").prompt_prefix == "rte "


def test_a_run_of_such_a_task_has_its_own_prefix() -> None:
    """One on own examples, or one without training."""
    recipe = {"task": "ax", "data": {"prompt_prefix": {"ax": "nli "}}}
    assert configure_task(recipe, "ax").prompt_prefix == "nli "
