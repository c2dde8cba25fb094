"""Recipe fields with one value per task, and recipes of earlier versions."""

from pathlib import Path

import pytest
import yaml
from resolved_recipes import refusal, resolve

from eval.errors import InputError
from tasks import get_task, task_names
from vl_lst.errors import RecipeError
from vl_lst.recipes import (
    Recipe,
    bundled_recipes,
    dump_recipe,
    load_recipe,
    read_recipe_file,
    resolve_recipe,
)

PAPER_TASKS_OF_TEXT = ("cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "stsb")


def mixture(*overrides: str) -> Recipe:
    return resolve("lst", "task=vqa,gqa,nlvr2,caption", *overrides)


def test_several_tasks_have_the_paper_s_batch_sizes_and_beams() -> None:
    recipe = mixture()
    assert recipe.tasks == ("vqa", "gqa", "nlvr2", "caption")
    assert recipe.training.batch_size == {"vqa": 300, "gqa": 500, "nlvr2": 100, "caption": 250}
    assert recipe.generation.beams == {"vqa": 1, "gqa": 1, "nlvr2": 1, "caption": 5}
    assert recipe.generation.max_length["caption"] == 40
    assert resolve("lst", "task=nlvr2").training.batch_size == {"nlvr2": 300}


def test_without_a_batch_size_tasks_have_their_own(tmp_path: Path) -> None:
    with_text = resolve("lst", "task=vqa,nlvr2,rte").training.batch_size
    assert with_text == {"vqa": 300, "nlvr2": 100, "rte": 100}
    assert resolve("lst", "task=rte", "features=[]").training.batch_size == {"rte": 100}
    one = resolve("lst", "task=rte", "features=[]", "training.batch_size=32")
    assert one.training.batch_size == {"rte": 32}
    only_one = resolve("lst", "task=vqa,rte", "training.batch_size.rte=7").training.batch_size
    assert only_one == {"vqa": 300, "rte": 7}


def test_one_value_applies_to_all_tasks_that_allow_it() -> None:
    assert mixture("head=classify").head == {
        "vqa": "classify",
        "gqa": "classify",
        "nlvr2": "classify",
        "caption": "generate",
    }
    with pytest.raises(RecipeError, match=r"head.caption: found 'classify'; expected.*generate"):
        resolve("lst", "task=caption", "head=classify")


def test_a_value_for_one_task_may_follow_one_for_all() -> None:
    recipe = mixture("head=classify", "head.gqa=generate", "training.batch_size.caption=7")
    assert (recipe.head["vqa"], recipe.head["gqa"]) == ("classify", "generate")
    assert recipe.training.batch_size == {"vqa": 300, "gqa": 500, "nlvr2": 100, "caption": 7}
    assert mixture("training.batch_size=60").training.batch_size["nlvr2"] == 20
    splits = mixture("data.validation_split.nlvr2=test1").data.validation_split
    assert splits == {"vqa": "val2014", "gqa": "val", "nlvr2": "test1", "caption": "val2014"}


def test_a_recipe_may_have_other_epochs_for_each_task(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: lst\ntraining: {epochs: {vqa: 3, gqa: 5, nlvr2: 5}}\n")
    assert resolve(path).training.epochs == 3
    assert resolve(path, "task=gqa").training.epochs == 5
    assert resolve(path, "task=gqa,nlvr2").training.epochs == 5
    assert resolve(path, "task=vqa,gqa", "training.epochs=2").training.epochs == 2
    steps = resolve(path, "task=vqa,gqa", "training.steps=9").training
    assert (steps.epochs, steps.steps) == (None, 9)
    with pytest.raises(RecipeError, match="found vqa: 3, gqa: 5; tasks that train together have"):
        resolve(path, "task=vqa,gqa")
    with pytest.raises(RecipeError, match="a number for vqa, gqa, nlvr2, none for caption; set"):
        resolve(path, "task=caption")
    with pytest.raises(InputError, match="'vqq'"):
        resolve("lst", "training.epochs={vqq: 3}")
    with pytest.raises(RecipeError, match="training.epochs: found 0; expected greater"):
        resolve("lst", "training.epochs={vqa: 0}")


def test_a_resolved_recipe_of_several_tasks_survives_a_round_trip(tmp_path: Path) -> None:
    recipe = mixture("head=classify", "training.batch_size=24", "generation.beams.vqa=3")
    dump_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    assert resolve(tmp_path / "recipe.yaml", "task=gqa").training.batch_size == {"gqa": 40}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task=vqa,vqa"], ["task", "vqa,vqa", "once"]),
        (["task=3"], ["task", "found 3"]),
        (["task=null"], ["task: missing"]),
        (["training.batch_size={vqa: 8}"], ["training.batch_size.gqa: missing"]),
        (["training.batch_size.nlvr2=0"], ["training.batch_size.nlvr2", "found 0"]),
        (["data.train_split=train2014"], ["data.train_split.gqa", "'train2014'", "train, val"]),
        (["head=write"], ["head.vqa", "'write'"]),
    ],
)
def test_a_problem_with_one_task_names_the_task(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        mixture(*overrides)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_value_for_an_unknown_task_is_refused() -> None:
    with pytest.raises(InputError, match="'gpa'"):
        mixture("training.batch_size.gpa=3")


def test_own_files_replace_the_data_root_and_its_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = ["data.root=null", "data.train_file=a.jsonl", "data.validation_file=b.jsonl"]
    recipe = resolve("lst", *own)
    assert recipe.data.root is None
    assert recipe.data.train_file == {"vqa": tmp_path / "a.jsonl"}
    assert recipe.data.validation_file == {"vqa": tmp_path / "b.jsonl"}
    assert recipe.data.train_split == {"vqa": "train"}
    assert recipe.data.validation_split == {"vqa": "val"}
    dump_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    mixed = mixture("data.train_file.gqa=a.jsonl", "data.validation_file.gqa=b.jsonl")
    assert mixed.data.train_file["vqa"] is None
    assert mixed.data.validation_split["vqa"] == "val2014"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.root=null"], ["neither a data root nor files for vqa", "--train-file"]),
        (["data.train_file=a"], ["data.validation_file.vqa: missing", "--val-file"]),
        (["data.validation_file=a"], ["data.train_file.vqa: missing", "--train-file"]),
        (["data.train_file=3", "data.validation_file=b"], ["data.train_file.vqa: found 3"]),
        (["task=vqa,gqa", "data.train_file=a"], ["one file for 2 tasks", "data.train_file.vqa="]),
    ],
)
def test_a_problem_with_own_files_names_the_field(overrides: list[str], words: list[str]) -> None:
    message = refusal(*overrides)
    assert all(word in message for word in words), message


def test_only_the_recipe_of_the_papers_code_cuts_prompts_to_20_tokens() -> None:
    limit = get_task("vqa").max_prompt_tokens
    assert limit >= 100
    for name in (each for each in bundled_recipes() if not each.startswith("glue-")):
        expected = 20 if name == "lst-paper" else limit
        assert resolve(name).data.max_prompt_tokens == {"vqa": expected}, name
    assert mixture("data.max_prompt_tokens.gqa=30").data.max_prompt_tokens == {
        **dict.fromkeys(("vqa", "nlvr2", "caption"), limit),
        "gqa": 30,
    }
    assert "data.max_prompt_tokens.vqa: found 0" in refusal("data.max_prompt_tokens=0")


@pytest.mark.parametrize("task", [name for name in task_names() if name != "ax"])
def test_every_bundled_recipe_fits_every_task_alone(task: str) -> None:
    features = ["x.h5"] * bool(get_task(task).images_per_example)
    for name in bundled_recipes():
        if name.startswith("glue-") and task not in PAPER_TASKS_OF_TEXT:
            continue
        recipe = resolve_recipe(
            read_recipe_file(name),
            [("task", task), ("backbone.name", "demo"), ("data.root", "d"), ("features", features)],
        )
        assert recipe.head[task] in get_task(task).heads, name


def test_a_task_without_public_answers_is_not_trained() -> None:
    changes = [("task", "ax"), ("backbone.name", "demo"), ("data.root", "d")]
    with pytest.raises(RecipeError, match="task: ax has only the split test, without public"):
        resolve_recipe(read_recipe_file("lst"), changes)
    own = [("data.train_file", "a.jsonl"), ("data.validation_file", "b.jsonl")]
    recipe = resolve_recipe(read_recipe_file("lst"), [*changes, *own])
    assert recipe.data.train_split == {"ax": "train"}


def test_each_task_has_its_own_minimum_answer_count() -> None:
    """GQA's list contains every answer, and so does that of a user's own files."""
    assert mixture().data.min_answer_count == {"vqa": 9, "gqa": 1, "nlvr2": 1, "caption": 1}
    assert mixture("data.min_answer_count=4").data.min_answer_count["gqa"] == 4
    own = ["data.train_file.vqa=a.jsonl", "data.validation_file.vqa=b.jsonl"]
    assert mixture(*own).data.min_answer_count["vqa"] == 1


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """Return the recipe of an earlier version's run."""
    path = tmp_path / "recipe.yaml"
    dump_recipe(mixture("head=classify"), path)
    saved = yaml.safe_load(path.read_text())
    del saved["data"]["max_prompt_tokens"]
    saved["data"]["min_answer_count"] = 9
    path.write_text(yaml.safe_dump(saved))
    return path


def test_the_recipe_of_an_earlier_version_s_run_keeps_its_values(former: Path) -> None:
    """Its model was trained on prompts cut to 20 tokens, and still reads such prompts."""
    for recipe in (load_recipe(former), resolve_recipe(read_recipe_file(former))):
        assert set(recipe.data.max_prompt_tokens.values()) == {20}
        assert set(recipe.data.min_answer_count.values()) == {9}
    changed = resolve(former, "data.max_prompt_tokens.vqa=40")
    assert changed.data.max_prompt_tokens == {"vqa": 40}, "a given value wins"


def test_a_run_without_warm_up_steps_in_its_recipe_has_the_same_recipe_today(former: Path) -> None:
    saved = yaml.safe_load(former.read_text())
    del saved["optimizer"]["warmup_steps"]
    former.write_text(yaml.safe_dump(saved))
    assert load_recipe(former).optimizer == mixture().optimizer


@pytest.mark.parametrize("absent", ["head", "training.trackers", "data.blind"])
def test_a_recipe_written_by_hand_has_today_s_prompt_limit(former: Path, absent: str) -> None:
    written = read_recipe_file(former)
    section, _, name = absent.rpartition(".")
    del (written[section] if section else written)[name]
    limits = resolve_recipe(written).data.max_prompt_tokens
    assert set(limits.values()) == {get_task("vqa").max_prompt_tokens}
