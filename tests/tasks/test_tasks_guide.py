"""The guide to adding a task contains a complete task."""

import json
import re
import sys
from collections.abc import Iterator
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


@pytest.fixture
def colors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """The task of the guide, installed as a user would install it."""
    metric, task = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    for package, source in ((metrics_package, metric), (tasks, task)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "colors.py").write_text(source, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield get_task("colors")
    for name in ("eval.colors", "tasks.colors"):
        sys.modules.pop(name, None)


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


def test_the_task_of_the_guide_refuses_wrong_input(colors: Task, data_root: Path) -> None:
    with pytest.raises(PredictionError, match="1 have no prediction"):
        colors.score({"0": "red"}, data_root, "val")
    with pytest.raises(InputError, match="no split 'test'"):
        colors.load(data_root, "test")


def test_predictions_of_the_guide_round_trip_through_their_file(
    colors: Task, tmp_path: Path
) -> None:
    colors.write_predictions({"0": "red"}, tmp_path / "predictions.json")
    assert colors.read_predictions(tmp_path / "predictions.json") == {"0": "red"}
