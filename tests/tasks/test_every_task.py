"""Tests that every task must pass.

They run on `tests/fixtures/<task>/`: a data root in the official layout, with a `suite.json` of the
split to use, the maximum and minimum of the primary metric, and the program that the evaluator
requires, if any. A split without public answers has neither maximum nor minimum.
"""

import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from eval._java import JavaError
from eval.errors import InputError, PredictionError
from tasks import Task

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
# Tasks with nothing but test examples.
WITHOUT_TRAINING = ("ax",)


@pytest.fixture
def root(task: Task) -> Path:
    return FIXTURES / task.name


@pytest.fixture
def suite(root: Path) -> dict[str, Any]:
    suite: dict[str, Any] = json.loads((root / "suite.json").read_text(encoding="utf-8"))
    return suite


@pytest.fixture
def evaluator(suite: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip if scoring is impossible, and leave out METEOR, which takes ten seconds per score."""
    program = suite.get("scoring_needs")
    if program is not None and shutil.which(program) is None:
        pytest.skip(f"scoring needs {program}")
    monkeypatch.setattr("eval.caption.running_meteor", NoMeteor)


class NoMeteor(AbstractContextManager["NoMeteor"]):
    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def score(self, *_: object) -> None:
        raise JavaError("left out")


@pytest.fixture
def perfect(task: Task, root: Path, suite: dict[str, Any]) -> dict[str, str]:
    if "maximum" not in suite:
        pytest.skip(f"the answers of {task.name} are not public")
    examples = task.load(root, suite["split"])
    best = {}
    for index in range(len(examples)):
        example = examples[index]
        best[example.id] = max(example.targets, key=lambda target: target[1])[0]
    return best


def test_task_fields_are_consistent(task: Task) -> None:
    assert task.prompt_prefix.endswith(" ")
    assert len(task.splits) == len(set(task.splits))
    assert len(task.splits) >= (1 if task.name in WITHOUT_TRAINING else 2)
    assert task.heads
    assert task.zero_shot_prompt.count("{}") == int(task.takes_text)
    assert not task.takes_text or task.texts_per_example >= 1
    assert ("regress" in task.heads) == (task.value_range is not None)


def test_examples_are_complete(task: Task, root: Path, suite: dict[str, Any]) -> None:
    examples = task.load(root, suite["split"])
    assert len(examples) > 0
    listed = [examples[index] for index in range(len(examples))]
    assert [example.id for example in listed] == examples.ids()
    assert len(set(examples.ids())) == len(examples)
    used = [image for example in listed for image in example.image_ids]
    assert examples.image_ids() == list(dict.fromkeys(used))
    for example in listed:
        assert len(example.image_ids) == task.images_per_example
        assert example.prompt.startswith(task.prompt_prefix)
        assert all(0 < weight <= 1 for _, weight in example.targets)


@pytest.mark.usefixtures("evaluator")
def test_perfect_predictions_give_the_maximum(
    task: Task, root: Path, suite: dict[str, Any], perfect: dict[str, str]
) -> None:
    score = task.score(perfect, root, suite["split"])
    assert score.metrics[task.primary_metric] == pytest.approx(suite["maximum"])
    assert set(score.per_example) == set(perfect)


@pytest.mark.usefixtures("evaluator")
def test_empty_predictions_give_the_minimum(
    task: Task, root: Path, suite: dict[str, Any], perfect: dict[str, str]
) -> None:
    score = task.score(dict.fromkeys(perfect, ""), root, suite["split"])
    assert score.metrics[task.primary_metric] == pytest.approx(suite["minimum"])


@pytest.mark.usefixtures("evaluator")
def test_order_of_predictions_does_not_matter(
    task: Task, root: Path, suite: dict[str, Any], perfect: dict[str, str]
) -> None:
    mixed = {id_: perfect[id_] if n % 2 else "" for n, id_ in enumerate(perfect)}
    backwards = dict(reversed(mixed.items()))
    forth, back = (task.score(each, root, suite["split"]) for each in (mixed, backwards))
    assert forth == back


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_missing_and_extra_predictions_are_errors(
    task: Task, root: Path, suite: dict[str, Any], perfect: dict[str, str], change: str
) -> None:
    if change == "missing":
        perfect.popitem()
    else:
        perfect["no-such-example"] = "yes"
    with pytest.raises(PredictionError, match="1 "):
        task.score(perfect, root, suite["split"])


def test_predictions_round_trip_through_their_file(
    task: Task, perfect: dict[str, str], tmp_path: Path
) -> None:
    task.write_predictions(perfect, tmp_path / "predictions")
    assert task.read_predictions(tmp_path / "predictions") == perfect


def test_loading_again_reads_the_cache(
    task: Task,
    root: Path,
    suite: dict[str, Any],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = task.load(root, suite["split"])
    (file,) = cache.iterdir()
    written = file.stat().st_mtime_ns

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the annotations were parsed again")

    monkeypatch.setattr("json.loads", refuse)
    second = task.load(root, suite["split"])
    assert [first[n] for n in range(len(first))] == [second[n] for n in range(len(second))]
    assert (list(cache.iterdir()), file.stat().st_mtime_ns) == ([file], written)


def test_an_unknown_split_is_named(task: Task, root: Path) -> None:
    with pytest.raises(InputError, match="no-such-split"):
        task.load(root, "no-such-split")
    with pytest.raises(InputError, match="no-such-split"):
        task.score({}, root, "no-such-split")


def test_a_missing_file_is_named(task: Task, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        task.load(tmp_path, task.splits[0])


def test_paths_may_be_strings(
    task: Task, root: Path, suite: dict[str, Any], perfect: dict[str, str], tmp_path: Path
) -> None:
    assert len(task.load(str(root), suite["split"])) == len(task.load(root, suite["split"]))
    path = str(tmp_path / f"predictions{task.predictions_suffix}")
    task.write_predictions(perfect, path)
    assert task.read_predictions(path) == perfect


@pytest.mark.parametrize("given", [None, 3, ["data"]])
def test_invalid_paths_are_refused(task: Task, given: object) -> None:
    with pytest.raises(InputError, match="data_root is .* expected a path"):
        task.load(given, task.splits[0])


def test_predictions_with_integer_ids_are_refused(
    task: Task, root: Path, suite: dict[str, Any], perfect: dict[str, str]
) -> None:
    by_number = dict(enumerate(perfect.values()))
    with pytest.raises(PredictionError, match="IDs of predictions must be strings: found 0"):
        task.score(by_number, root, suite["split"])
    with pytest.raises(PredictionError, match="expected a dictionary"):
        task.score(list(perfect.values()), root, suite["split"])
    with pytest.raises(PredictionError, match="have no prediction"):
        task.score({}, root, suite["split"])


@pytest.mark.parametrize("split", ["nope", None, ""])
def test_invalid_splits_are_refused(task: Task, root: Path, split: object) -> None:
    with pytest.raises(InputError, match="has no split|split is None"):
        task.load(root, split)
