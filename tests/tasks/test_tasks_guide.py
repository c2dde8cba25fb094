"""The guide to adding a task contains a complete task."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import eval as metrics_package  # noqa: A004
import tasks
from eval.errors import InputError, PredictionError
from tasks import Task, get_task, task_names
from tasks._data_check import check_split

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_task.md"
QUESTIONS = [
    {"id": n, "image": "kitchen", "question": "what color is the cup?", "answer": answer}
    for n, answer in enumerate(("red", "blue"))
]


# What a task of text alone has instead, by the guide's table.
TEXT_ALONE = {
    'image_ids=(records.field(position, "image", str),),': "image_ids=(),",
    'heads=("classify", "generate"),': 'heads=("classify", "generate"),\n    images_per_example=0,',
}


def guide_sources() -> tuple[str, str]:
    """Return the guide's files of the metric and of the task."""
    metric, task = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    return metric, task


@contextmanager
def installed(metric: str, task: str, folder: Path) -> Iterator[Task]:
    """Install a task as a user would install it."""
    with pytest.MonkeyPatch.context() as patch:
        for package, source in ((metrics_package, metric), (tasks, task)):
            place = folder / package.__name__
            place.mkdir()
            (place / "colors.py").write_text(source, encoding="utf-8")
            patch.setattr(package, "__path__", [*package.__path__, str(place)])
        yield get_task("colors")
    for name in ("eval.colors", "tasks.colors"):
        sys.modules.pop(name, None)


@pytest.fixture
def colors(tmp_path: Path) -> Iterator[Task]:
    """The task of the guide."""
    with installed(*guide_sources(), tmp_path) as task:
        yield task


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "colors"
    folder.mkdir(parents=True)
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(QUESTIONS), encoding="utf-8")
    return folder.parent


def test_the_task_of_the_guide_loads_and_scores(colors: Task, data_root: Path) -> None:
    assert "colors" in task_names()
    examples = colors.load(data_root, "val")
    assert [example.prompt for example in examples] == ["colors: what color is the cup?"] * 2
    score = colors.score({"0": "red", "1": "red"}, data_root, "val")
    assert colors.metric.percent(score.metrics[colors.primary_metric]) == 50.0
    assert check_split(colors, data_root, "train", None).problem is None


def test_a_task_of_text_alone_differs_only_in_what_the_guide_says(
    data_root: Path, tmp_path: Path
) -> None:
    metric, source = guide_sources()
    for old, new in TEXT_ALONE.items():
        assert source.count(old) == 1
        source = source.replace(old, new)
    with installed(metric, source, tmp_path) as task:
        examples = task.load(data_root, "val")
        assert [(each.image_ids, each.prompt) for each in examples] == [
            ((), "colors: what color is the cup?")
        ] * 2
        assert examples.image_ids() == []
        state = check_split(task, data_root, "train", None)
        assert (state.images, state.problem) == (0, None)


def test_the_task_of_the_guide_refuses_wrong_input(colors: Task, data_root: Path) -> None:
    with pytest.raises(PredictionError, match="1 has no prediction"):
        colors.score({"0": "red"}, data_root, "val")
    with pytest.raises(InputError, match="no split 'test'"):
        colors.load(data_root, "test")


def test_predictions_of_the_guide_round_trip_through_their_file(
    colors: Task, tmp_path: Path
) -> None:
    colors.write_predictions({"0": "red"}, tmp_path / "predictions.json")
    assert colors.read_predictions(tmp_path / "predictions.json") == {"0": "red"}
