"""A user's own examples of tasks without images: one or two texts, and any text as an answer."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.errors import FileFormatError
from tasks import get_task, load_own_examples, score_own_predictions, with_own_files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "own.jsonl"


def write(file: Path, *lines: dict[str, Any]) -> None:
    file.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")


def line(**changes: Any) -> dict[str, Any]:
    fields = {"id": "a", "prompt": ["It rains.", "It snows."], "answers": ["1"]}
    return {name: value for name, value in {**fields, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("task", "prompt", "expected"),
    [
        ("rte", ["It {rains}.", "It snows."], "rte sentence1: It {rains}. sentence2: It snows."),
        ("rte", "sentence1: A sentence2: B", "rte sentence1: A sentence2: B"),
        ("rte", "rte sentence1: A sentence2: B", "rte sentence1: A sentence2: B"),
        ("mnli", ["A", "B"], "mnli premise: A hypothesis B"),
        ("ax", ["A", "B"], "mnli premise: A hypothesis B"),
        ("cola", "It rains. ", "cola sentence: It rains. "),
        ("cola", ["It rains."], "cola sentence: It rains."),
        ("cola", "sentence: It\nrains.", "cola sentence: It\nrains."),
        ("cola", "cola sentence: It rains.", "cola sentence: It rains."),
        ("cola", "cola is a drink.", "cola sentence: cola is a drink."),
        ("cola", ["cola is a drink."], "cola sentence: cola is a drink."),
    ],
)
def test_texts_get_the_format_of_the_task(
    file: Path, task: str, prompt: object, expected: str
) -> None:
    write(file, line(prompt=prompt))
    (example,) = load_own_examples(file, get_task(task))
    assert (example.prompt, example.image_ids) == (expected, ())
    assert example.targets == (("1", 1.0),)


def test_a_task_of_one_question_takes_a_list_of_one(file: Path) -> None:
    write(file, line(prompt=["what is red?"], images=["a.jpg"], answers=["cup"]))
    assert load_own_examples(file, get_task("gqa"))[0].prompt == "gqa: what is red?"


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("rte", {"images": ["a.jpg"]}, "line 1 has images; rte takes none: leave the field out"),
        ("rte", {"images": ""}, "line 1 has images; rte takes none"),
        ("rte", {"prompt": ["A"]}, "line 1 has a prompt of 1 text; rte takes 2"),
        ("cola", {}, "line 1 has a prompt of 2 texts; cola takes 1"),
        ("rte", {"prompt": ["A", " "]}, "line 1 has ' ' in 'prompt'; expected non-empty strings"),
        (
            "rte",
            {"prompt": "A B"},
            "has the prompt 'A B'; expected a list of 2 .*'sentence1: ... se",
        ),
        ("mnli", {"prompt": "mnli A"}, "'mnli A'; expected .* 'premise: ... hypothesis ...'"),
        ("cola", {"prompt": 3}, "line 1 has prompt 3, an integer; expected a string"),
        ("rte", {"prompt": 3}, "line 1 has prompt 3, an integer; expected a list of 2 texts"),
        ("rte", {"prompt": None}, 'line 1 has no \'prompt\'.*{"id": ..., "prompt": '),
        ("rte", {"answers": ["entailment"]}, "has the answer 'entailment'; expected '0' or '1'"),
        ("rte", {"answers": ["0", "1"]}, "has 2 answers; rte takes one correct answer"),
        ("stsb", {"answers": ["six"]}, "has the answer 'six'; expected a number from 0 to 5"),
        ("stsb", {"answers": ["5.5"]}, "has the answer '5.5'; expected a number from 0 to 5"),
        *(
            ("stsb", {"answers": [number]}, f"has the answer '{number}'; expected a number")
            for number in ("nan", "0_3", "\u0663", "1e0", "-0.0", "5.")
        ),
    ],
)
def test_wrong_lines_are_explained(
    file: Path, task: str, changes: dict[str, Any], message: str
) -> None:
    write(file, line(**changes))
    with pytest.raises(FileFormatError, match=message):
        load_own_examples(file, get_task(task))


def test_answers_of_a_range_below_zero_may_be_negative(file: Path) -> None:
    write(file, line(answers=["-0.5"]))
    task = replace(get_task("stsb"), value_range=(-1.0, 1.0))
    assert load_own_examples(file, task)[0].targets == (("-0.5", 1.0),)


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("rte", line() | {"images": []}),
        ("rte", line() | {"images": None}),
        ("caption", line(images=["a.jpg"], answers=["a cup"]) | {"prompt": None}),
    ],
)
def test_a_column_shared_with_other_tasks_may_be_empty(
    file: Path, task: str, row: dict[str, Any]
) -> None:
    write(file, row)
    assert len(load_own_examples(file, get_task(task))) == 1


def test_own_predictions_get_the_official_metrics(file: Path, tmp_path: Path) -> None:
    """Invalid words are scored and not refused, because they affect the metrics."""
    targets = ["1", "0", "1", "0", "0"]
    lines = [line(id=n, prompt="A.", answers=[each]) for n, each in enumerate(targets)]
    write(file, *lines)
    words = {"0": "x", "1": " y ", "2": "1", "3": "0\n", "4": "1"}
    task = get_task("cola")
    score = score_own_predictions(words, file, task)
    assert score.metrics["matthews"] == pytest.approx(20.412414523193153)
    assert score.protocol == "cola own data, official metrics"
    assert score.per_example == {"0": 0.0, "1": 0.0, "2": 100.0, "3": 100.0, "4": 0.0}
    own = with_own_files(task, {"val": file})
    own.write_predictions(words, tmp_path / "predictions.json")
    assert own.read_predictions(tmp_path / "predictions.json") == words
    assert own.score(words, tmp_path, "val") == score
