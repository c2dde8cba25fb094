"""Predictions of lmms-eval and VLMEvalKit are matched to official IDs, or refused."""

import csv
import importlib.util
import json
import os
import random
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from eval.errors import FileFormatError, InputError, PredictionError
from tasks import get_task
from tasks._examples import Example
from tasks._harness_predictions import read_any_predictions

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
SPLITS = {"vqa": "val2014", "gqa": "val_all", "nlvr2": "dev", "caption": "val2014"}
POST_PROMPT = "\nAnswer the question using a single word or phrase."
Rows = list[dict[str, Any]]


def examples_of(task: str) -> list[Example]:
    return list(get_task(task).load(FIXTURES / task, SPLITS[task]))


def truth(task: str) -> dict[str, str]:
    """The best answer to each example."""
    return {each.id: each.targets[0][0] for each in examples_of(task)}


def samples(task: str, **fields: Callable[[Example], object]) -> Rows:
    """Samples as lmms-eval writes them, with further fields."""
    return [
        {
            "doc_id": number,
            "target": "",
            "filtered_resps": f" {each.targets[0][0]} ",
            "token_counts": [None],
            "doc_hash": "0" * 64,
            "input": each.text + POST_PROMPT,
            "exact_match": 1.0,
            **{name: make(each) for name, make in fields.items()},
        }
        for number, each in enumerate(examples_of(task))
    ]


def table(task: str, **columns: Callable[[Example], object]) -> Rows:
    """Rows as VLMEvalKit writes them, with further columns."""
    return [
        {
            "index": number,
            "question": each.text,
            "answer": each.targets[0][0],
            "prediction": each.targets[0][0],
            **{name: make(each) for name, make in columns.items()},
        }
        for number, each in enumerate(examples_of(task))
    ]


def write_lines(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_table(path: Path, rows: Rows) -> Path:
    """Write a table as VLMEvalKit does, in the format of the suffix."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=4), encoding="utf-8")
    elif path.suffix == ".xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        workbook = openpyxl.Workbook()
        workbook.active.append(list(rows[0]))
        for row in rows:
            workbook.active.append(list(row.values()))
        workbook.save(path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t", quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(task: str, path: Path) -> tuple[dict[str, str], Sequence[str]]:
    found = read_any_predictions(get_task(task), path, FIXTURES / task, SPLITS[task])
    return found.answers, found.notes


def test_the_official_format_is_read_as_before(tmp_path: Path) -> None:
    for task in SPLITS:
        path = tmp_path / f"{task}.txt"
        get_task(task).write_predictions(truth(task), path)
        assert read(task, path) == (get_task(task).read_predictions(path), ())


@pytest.mark.parametrize(
    ("task", "fields", "holder"),
    [
        ("vqa", {"doc": lambda one: {"question_id": int(one.id)}}, "doc.question_id"),
        ("vqa", {"submission": lambda one: {"question_id": one.id}}, "submission.question_id"),
        ("gqa", {"doc": lambda one: {"id": one.id, "imageId": "1"}}, "doc.id"),
        (
            "caption",
            {"coco_CIDEr": lambda one: {"id": 3, "image_id": int(one.id)}},
            "coco_CIDEr.image_id",
        ),
        ("nlvr2", {"doc": lambda one: {"identifier": one.id}}, "doc.identifier"),
    ],
)
def test_samples_of_lmms_eval_are_matched_by_an_id(
    tmp_path: Path, task: str, fields: dict[str, Any], holder: str
) -> None:
    rows = samples(task, **fields)
    random.Random(0).shuffle(rows)
    answers, notes = read(task, write_lines(tmp_path / "samples.jsonl", rows))
    assert answers == truth(task)
    assert notes == (f"read as predictions of lmms-eval: {holder} holds the IDs",)


def test_samples_without_ids_are_matched_by_number_if_all_questions_agree(tmp_path: Path) -> None:
    rows = samples("vqa")
    answers, notes = read("vqa", write_lines(tmp_path / "a.jsonl", rows[::-1]))
    assert answers == truth("vqa")
    assert "numbered as the split" in notes[0]
    rows[0]["doc_id"], rows[1]["doc_id"] = 1, 0
    with pytest.raises(PredictionError, match=r"6 answers cannot be matched to the 6 .*as 42000"):
        read("vqa", write_lines(tmp_path / "b.jsonl", rows))
    with pytest.raises(PredictionError, match="found no field with IDs"):
        read("caption", write_lines(tmp_path / "c.jsonl", samples("caption")))


@pytest.mark.parametrize("suffix", ["tsv", "json", "xlsx"])
@pytest.mark.parametrize(
    ("task", "columns"),
    [
        # Numbers in a spreadsheet have no leading zeros.
        ("gqa", {"index": lambda one: int(one.id)}),
        ("vqa", {"question_id": lambda one: int(one.id)}),
        ("caption", {"image_id": lambda one: float(one.id)}),
        ("vqa", {}),
    ],
)
def test_tables_of_vlmevalkit_are_matched(
    tmp_path: Path, task: str, columns: dict[str, Any], suffix: str
) -> None:
    if suffix == "tsv" and task == "caption":
        columns = {"image_id": lambda one: one.id}
    path = write_table(tmp_path / f"model_data.{suffix}", table(task, **columns))
    answers, notes = read(task, path)
    assert answers == truth(task)
    assert notes[0].startswith("read as predictions of VLMEvalKit: ")


def test_a_missing_file_and_a_pipe_are_left_to_the_official_reader(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'expected predictions, \[\{"question_id": 42'):
        read("vqa", tmp_path / "none.json")
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        file.write('[{"question_id": 42000, "answer": "umbrella"}]')
    try:
        assert read("vqa", Path(f"/dev/fd/{reading}")) == ({"42000": "umbrella"}, ())
    finally:
        os.close(reading)


def test_an_empty_answer_of_a_table_is_an_empty_text(tmp_path: Path) -> None:
    rows = table("vqa")
    rows[0]["prediction"] = None
    answers, _ = read("vqa", write_table(tmp_path / "a.json", rows))
    assert answers == {**truth("vqa"), "42000": ""}


def test_what_is_no_single_answer_is_refused(tmp_path: Path) -> None:
    rows = samples("vqa")
    rows[2]["filtered_resps"] = [["a", "b"]]
    with pytest.raises(FileFormatError, match=r"line 3 \(doc_id 2\) has filtered_resps \['a', 'b'"):
        read("vqa", write_lines(tmp_path / "a.jsonl", rows))
    twice = samples("gqa", doc=lambda one: {"id": one.id})
    with pytest.raises(PredictionError, match=r"1 example has more than one answer \(0201\)"):
        read("gqa", write_lines(tmp_path / "b.jsonl", [*twice, twice[0]]))
    table_rows = table("vqa")
    del table_rows[1]["prediction"]
    with pytest.raises(FileFormatError, match="row 2 has no index or no prediction"):
        read("vqa", write_table(tmp_path / "c.json", table_rows))


def test_an_excel_file_needs_openpyxl_and_must_be_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model_data.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook")
    if importlib.util.find_spec("openpyxl") is not None:
        with pytest.raises(FileFormatError, match="cannot be read as an Excel file"):
            read("vqa", path)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(FileFormatError, match=r"install vl-lst\[xlsx\], or .*PRED_FORMAT=tsv"):
        read("vqa", path)
