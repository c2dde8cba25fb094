"""The search of learning rates gives every method the same effort, on examples held out."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_programs import import_benchmark

from vl_lst.demo.splits import PairSplit, Split
from vl_lst.demo.world import PAIR_SPLITS, SPLITS, write_world
from vl_lst.errors import TrainingError


@pytest.fixture(scope="module")
def search() -> Any:
    return import_benchmark("learning_rates")


@pytest.fixture(scope="module")
def folder(search: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples of a small world, in two parts."""
    out = tmp_path_factory.mktemp("search")

    def fewer(split: Split) -> Split:
        return Split(split.name, split.purpose, 10, 4, split.first_image_id)

    def fewer_pairs(split: PairSplit) -> PairSplit:
        return PairSplit(split.name, split.purpose, 6, 2, split.in_directories)

    write_world(
        out / "shapes",
        splits=tuple(map(fewer, SPLITS)),
        pair_splits=tuple(map(fewer_pairs, PAIR_SPLITS)),
    )
    search.write_parts(out / "shapes", out / "examples", search.ALL_TASKS.split(","))
    return out


@pytest.mark.parametrize("task", ["vqa", "gqa", "nlvr2", "caption"])
def test_no_image_is_in_both_parts_and_none_is_of_the_scored_split(folder: Path, task: str) -> None:
    parts = {}
    for part in ("train", "held-out"):
        lines = (folder / "examples" / f"{task}-{part}.jsonl").read_text().splitlines()
        parts[part] = [json.loads(line) for line in lines]
    images = {part: {i for line in lines for i in line["images"]} for part, lines in parts.items()}
    assert images["train"]
    assert images["held-out"]
    assert not images["train"] & images["held-out"]
    assert all("train" in image for image in images["train"] | images["held-out"])
    if task == "vqa":
        assert {len(line["answers"]) for line in parts["held-out"]} == {10}
    if task == "caption":
        assert len(parts["held-out"]) == len(images["held-out"])
        assert all(len(line["answers"]) > 1 for line in parts["held-out"])


def test_all_methods_have_the_same_schedule_and_number_of_rates(search: Any, folder: Path) -> None:
    schedules, numbers = set(), set()
    for method in search.method_names():
        own = float(search.base_recipe(method)["optimizer"]["lr"])
        rates = search.rates_around(own)
        numbers.add(len(rates))
        assert rates == [float(f"{own * factor:.1g}") for factor in (1 / 3, 1, 3)]
        recipe = search.trial_recipe(search.Trial(method, rates[0]), folder, Path("f.h5"), 7)
        assert (recipe.method.name, recipe.optimizer.lr) == (method, rates[0])
        assert not recipe.method.options.get("recompute")
        schedules.add(recipe.training.model_dump_json())
        assert recipe.data.validation_file["gqa"] == folder / "examples" / "gqa-held-out.jsonl"
    assert (len(schedules), numbers) == (1, {3})


def test_the_best_rate_is_chosen_and_a_run_that_diverges_has_no_score(
    search: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def diverge(*_: object) -> None:
        raise TrainingError("the loss is NaN")

    monkeypatch.setattr(search, "run", diverge)
    diverged = search.run_trial(None, tmp_path)
    assert diverged == search.Outcome(None, None)
    rates = {"lst": [1e-4, 3e-4, 9e-4], "full": [1e-5, 3e-5, 9e-5], "lora": [1.0, 3.0, 9.0]}
    outcomes = {
        search.Trial("lst", 1e-4): search.Outcome({"average": 50.0}, 1.0),
        search.Trial("lst", 3e-4): search.Outcome({"average": 50.0}, 1.0),
        search.Trial("lst", 9e-4): diverged,
        search.Trial("full", 1e-5): search.Outcome({"average": 40.0}, 1.0),
        **{search.Trial("lora", rate): diverged for rate in rates["lora"]},
    }
    text = search.write_results(outcomes, rates, tmp_path)
    assert "| lst | 1e-04: 50.00 | 3e-04: 50.00 | 9e-04: diverged | 1e-04 |" in text
    assert "| lora | 1e+00: diverged | 3e+00: diverged | 9e+00: diverged | none |" in text
    assert "full" not in text, "not all of its runs have ended"
    assert text == (tmp_path / "learning_rates.md").read_text()
