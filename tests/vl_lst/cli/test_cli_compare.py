"""The command `vl-lst compare`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from board_runs import write_run

from vl_lst.cli import main

pytestmark = pytest.mark.usefixtures("cache")

IMAGES, QUESTIONS = 20, 3
NUMBER = IMAGES * QUESTIONS


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Three questions about each image, all answered by "a"."""
    return write_questions(tmp_path / "val.jsonl", range(NUMBER))


def write_questions(path: Path, numbers: Sequence[int]) -> Path:
    lines = [
        {
            "id": f"q{number}",
            "images": [f"p{number // QUESTIONS}.jpg"],
            "prompt": f"what is {number}?",
            "answers": ["a"],
        }
        for number in numbers
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_answers(questions: Path, name: str, wrong: Sequence[int], **fields: Any) -> Path:
    """Write a run that answers some questions wrong, as an earlier version did, without scores."""
    numbers = [int(json.loads(line)["id"][1:]) for line in questions.read_text().splitlines()]
    share = 100 * sum(number not in wrong for number in numbers) / len(numbers)
    run = write_run(
        questions.parent,
        name,
        **{
            "recipe__data__root": None,
            "recipe__data__train_file": {"vqa": str(questions)},
            "recipe__data__validation_file": {"vqa": str(questions)},
            "recipe__data__validation_split": {"vqa": "val"},
            **fields,
        },
    )
    record = json.loads((run / "record.json").read_text())
    if record["scores"].keys() == {"vqa"}:
        record["scores"] = {"vqa": {"val": {"accuracy": share}}}
        (run / "record.json").write_text(json.dumps(record))
    (run / "predictions").mkdir()
    predictions = [{"id": f"q{n}", "answer": "b" if n in wrong else "a"} for n in numbers]
    (run / "predictions" / "vqa-val.json").write_text(json.dumps(predictions))
    return run


def compare(*arguments: str | Path) -> int:
    return main(["compare", *map(str, arguments)])


def test_a_clear_difference_is_told(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings first, then scores and the test, then answers that differ."""
    first = write_answers(questions, "first", [0], options={"reduction": 4})
    wrong = [0, *range(1, NUMBER, 2)]
    second = write_answers(questions, "second", wrong, method="lora", seed=1)
    out = tmp_path / "out.json"
    assert compare(first, second, "--limit", "2", "--json", out) == 0
    printed = capsys.readouterr().out
    assert printed.index("method.options.reduction") < printed.index("A is better")
    assert printed.index("A is better") < printed.index("truth: a")
    assert "only A right: 30, only B right: 0" in printed
    assert "B: b (wrong)" in printed

    document = json.loads(out.read_text())
    assert document["settings"]["method.name"] == ["lst", "lora"]
    assert document["settings"]["training.seed"] == [0, 1]
    assert document["settings"]["method.options.reduction"] == [4, None]
    assert "data.validation_file.vqa" not in document["settings"]
    (task,) = document["tasks"]
    assert (task["verdict"], task["split"], task["only_right"]) == ("better", "val", [30, 0])
    assert task["test"]["difference"] == pytest.approx(50)
    assert task["intervals"][0][0] < task["scores"][0] < task["intervals"][0][1]
    assert [each["id"] for each in task["examples"]] == ["q1", "q31"]
    assert task["examples"][0]["prompt"] == "what is 1?"


def test_a_difference_of_a_few_images_is_not_told_apart(
    questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve questions more, but all about the same four images."""
    first = write_answers(questions, "first", [])
    second = write_answers(questions, "second", range(4 * QUESTIONS))
    assert compare(first, second) == 0
    printed = capsys.readouterr().out
    assert "A and B are not told apart" in printed
    assert "there are 60" in printed


def test_a_run_equals_itself(questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_answers(questions, "run", [0, 1])
    assert compare(run, run) == 0
    printed = capsys.readouterr().out
    assert "The runs have the same settings." in printed
    assert "+0.00" in printed
    assert "not told apart" in printed


def test_scores_without_predictions_have_no_test(
    questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (write_answers(questions, name, [0]) for name in ("first", "second"))
    (second / "predictions" / "vqa-val.json").unlink()
    assert compare(first, second) == 0
    printed = capsys.readouterr().out
    assert "no paired test" in printed
    assert "vl-lst evaluate" in printed
    assert "told apart" not in printed


def test_predictions_of_another_checkpoint_are_not_tested(
    questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_answers(questions, "first", [0])
    second = write_answers(questions, "second", [1])
    record = json.loads((second / "record.json").read_text())
    record["scores"]["vqa"]["val"]["accuracy"] = 12.5
    (second / "record.json").write_text(json.dumps(record))
    assert compare(first, second) == 0
    assert "not those of its recorded score" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("fields", "arguments", "message"),
    [
        ({"status": "cancelled"}, (), "not a finished run: its status is cancelled"),
        ({"scores": {"gqa": 50.0}}, (), "expected a task in common"),
        ({}, ("--task", "gqa"), "expected scores of gqa in both"),
        ({}, ("--split", "train"), "no scores of vqa train"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    questions: Path,
    fields: dict[str, Any],
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = write_answers(questions, "first", [0])
    second = write_answers(questions, "second", [0], **fields)
    assert compare(first, second, *arguments) == 1
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split())
    assert captured.out == ""


def test_other_examples_are_refused(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_answers(questions, "first", [0])
    fewer = write_questions(tmp_path / "fewer.jsonl", range(NUMBER - 1))
    second = write_answers(fewer, "second", [0])
    assert compare(first, second) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "found 60 and 59, 59 of them in both (not, for example, q59)" in message


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_folders_that_are_no_runs_are_refused(
    questions: Path, tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_answers(questions, "run", [0])
    (tmp_path / "other").mkdir()
    if content is not None:
        (tmp_path / "other" / "record.json").write_text(content)
    assert compare(run, tmp_path / "other") == 1
    captured = capsys.readouterr()
    assert "error: " in captured.err
    assert str(tmp_path / "other") in "".join(captured.err.split("\n"))
    assert "Traceback" not in captured.err
