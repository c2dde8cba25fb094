"""Predictions files that are JSON lists: writing, reading and error messages."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.errors import FileFormatError, InputError, PredictionError
from tasks import Task, get_task

# One answer in the format of each server, and an ID of the wrong type.
OFFICIAL: dict[str, tuple[dict[str, Any], object]] = {
    "vqa": ({"question_id": 42, "answer": "yes"}, "42"),
    "gqa": ({"questionId": "0042", "prediction": "yes"}, 42),
    "caption": ({"image_id": 42, "caption": "yes"}, "42"),
}


@pytest.fixture(params=OFFICIAL)
def name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def task(name: str) -> Task:
    return get_task(name)


@pytest.fixture
def one(name: str) -> dict[str, Any]:
    return OFFICIAL[name][0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "results.json"


def refused(task: Task, file: Path, results: object, error: type[InputError]) -> str:
    file.write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(error) as raised:
        task.read_predictions(file)
    assert str(raised.value).startswith(f"{file}: ")
    return str(raised.value)


def test_predictions_are_written_in_the_server_format(
    task: Task, one: dict[str, Any], file: Path
) -> None:
    id_field, answer_field = one
    other = {id_field: type(one[id_field])(7), answer_field: ""}
    task.write_predictions({str(each[id_field]): each[answer_field] for each in (one, other)}, file)
    assert json.loads(file.read_text(encoding="utf-8")) == [one, other]


def test_ids_of_another_type_are_refused(name: str, one: dict[str, Any], file: Path) -> None:
    id_field, _ = one
    wrong = OFFICIAL[name][1]
    message = refused(get_task(name), file, [one, {**one, id_field: wrong}], FileFormatError)
    assert f"[1] has {id_field} {wrong!r}, a" in message


@pytest.mark.parametrize(
    ("row", "found"), [({"id": 1.0}, "has id 1.0, a number"), ({}, "has no 'id'")]
)
def test_ids_that_may_be_texts_or_integers_are_described(
    row: dict[str, Any], found: str, file: Path
) -> None:
    message = refused(get_task("sst2"), file, [{**row, "answer": "1"}], FileFormatError)
    assert f"[0] {found}; expected a string or an integer" in message


def test_an_answer_must_be_a_string(task: Task, one: dict[str, Any], file: Path) -> None:
    id_field, answer_field = one
    without = [{id_field: one[id_field]}]
    assert f"[0] has no {answer_field!r}" in refused(task, file, without, FileFormatError)
    for value, kind in ((None, "null"), (0.5, "a number"), (True, "true or false")):
        message = refused(task, file, [{**one, answer_field: value}], FileFormatError)
        assert f"[0] has {answer_field} {value}, {kind}; expected a string" in message


def test_the_document_must_be_a_list_of_objects(
    task: Task, one: dict[str, Any], file: Path
) -> None:
    id_field, _ = one
    message = refused(task, file, {"42": "yes"}, FileFormatError)
    assert (
        f'the document is an object; expected a list with predictions, [{{"{id_field}"' in message
    )
    assert "[0] is a string; expected an object" in refused(task, file, ["yes"], FileFormatError)


def test_repeated_answers_are_counted_and_named(
    task: Task, one: dict[str, Any], file: Path
) -> None:
    id_field, answer_field = one
    twice = [one, {**one, answer_field: "no"}]
    message = refused(task, file, twice, PredictionError)
    assert f"1 example has more than one {answer_field} ({one[id_field]})" in message


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
def test_json_lines_are_read_like_a_list(
    task: Task, one: dict[str, Any], file: Path, ending: str
) -> None:
    id_field, answer_field = one
    other = {id_field: type(one[id_field])(7), answer_field: "no"}
    lines = [json.dumps(each) for each in (one, other)]
    file.write_text("\n".join(lines) + ending, encoding="utf-8")
    expected = {str(each[id_field]): each[answer_field] for each in (one, other)}
    assert task.read_predictions(file) == expected
    file.write_text(lines[0] + ending, encoding="utf-8")
    assert list(task.read_predictions(file)) == [str(one[id_field])]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{", "line 2 is not valid JSON at column 2: "),
        ("", "line 2 is empty"),
        ("[]", "line 2 is a list"),
    ],
)
def test_malformed_lines_are_named(
    task: Task, one: dict[str, Any], file: Path, second: str, message: str
) -> None:
    file.write_text("\n".join([json.dumps(one), second, json.dumps(one)]), encoding="utf-8")
    with pytest.raises(FileFormatError, match=message):
        task.read_predictions(file)


def test_a_byte_order_mark_is_skipped(task: Task, one: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps([one]), encoding="utf-8-sig")
    assert len(task.read_predictions(file)) == 1


def test_an_id_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match="prediction of 'a' cannot be written: .*integer"):
        get_task("vqa").write_predictions({"a": "yes"}, tmp_path / "predictions.json")
    assert not any(tmp_path.iterdir())
