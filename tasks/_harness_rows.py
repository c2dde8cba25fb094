"""Predictions files of evaluation harnesses, recognised by their content.

lmms-eval writes `*_samples_TASK.jsonl` with --log_samples: one object per line, with the fields
`doc_id`, `filtered_resps`, `input` (the prompt), what the task's metrics were computed from, and,
in older versions, `doc`.

VLMEvalKit writes MODEL_DATASET.xlsx, .tsv or .json: a table with the columns `index`, `question`,
`answer` and `prediction`, and further columns of the data set.
"""

import csv
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.errors import FileFormatError, InputError
from eval.files import BYTE_ORDER_MARK, MAX_TEXT_BYTES, open_text
from eval.regular_files import open_regular
from tasks._records import Records, read_records

__all__ = ["HarnessFile", "HarnessRow", "read_harness_file"]

# Enough for the first sample of a file, which holds its whole prompt.
HEAD_BYTES = 1 << 20
LMMS_EVAL, VLM_EVAL_KIT = "lmms-eval", "VLMEvalKit"
LMMS_EVAL_FIELDS = frozenset({"doc_id", "filtered_resps"})
VLM_EVAL_KIT_FIELDS = frozenset({"index", "prediction"})
ZIP_MAGIC = b"PK\x03\x04"
WORKBOOK = "xl/workbook.xml"


@dataclass(frozen=True, slots=True)
class HarnessRow:
    """The answer to one example.

    Args:
        number: Number of the example in the harness's data set, from 0.
        text: Text that contains the question; empty if the file has none.
        answer: The answer.
        fields: Texts and integers by which the example may be known, such as
            {"doc.question_id": "42"}.
    """

    number: int
    text: str
    answer: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class HarnessFile:
    """A predictions file of a harness.

    Args:
        program: Name of the harness.
        rows: The answers, in the order of the file.
    """

    program: str
    rows: Sequence[HarnessRow]


def read_harness_file(path: Path) -> HarnessFile | None:
    """Read a predictions file of a harness; return `None` if it is not one.

    Args:
        path: The file. A pipe, which can be read only once, is never one.

    Raises:
        FileFormatError: A row has no answer, the file is damaged, or a package that reads it is not
            installed.
    """
    try:
        with open_regular(
            path, expected="predictions", max_bytes=MAX_TEXT_BYTES, read_again=True
        ) as file:
            head = file.read(HEAD_BYTES)
    except InputError:  # The reader of the official format reports it.
        return None
    if head.startswith(ZIP_MAGIC):
        return _table(path, _workbook_rows(path)) if _is_workbook(path) else None
    text = head.decode("utf-8", "replace").lstrip(BYTE_ORDER_MARK)
    fields = _first_object(text).keys()
    if fields >= LMMS_EVAL_FIELDS:
        samples = read_records(
            path, expected=f"samples of {LMMS_EVAL}", line_field=next(iter(LMMS_EVAL_FIELDS))
        )
        rows = [_sample(samples, position) for position in range(len(samples))]
        return HarnessFile(LMMS_EVAL, rows)
    if fields >= VLM_EVAL_KIT_FIELDS:
        records = read_records(path, expected=f"predictions of {VLM_EVAL_KIT}")
        return _table(path, records.rows)
    for delimiter in "\t,":
        if _header(text, delimiter) >= VLM_EVAL_KIT_FIELDS:
            return _table(path, _delimited_rows(path, delimiter))
    return None


def _first_object(text: str) -> Mapping[str, object]:
    """Return the first object of a JSON list or of JSON Lines; an empty one if there is none."""
    start = text.lstrip().removeprefix("[").lstrip()
    try:
        found, _ = json.JSONDecoder().raw_decode(start)
    except (RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _header(text: str, delimiter: str) -> set[str]:
    try:
        return set(next(csv.reader([text.partition("\n")[0]], delimiter=delimiter), []))
    except csv.Error:
        return set()


def _sample(samples: Records, position: int) -> HarnessRow:
    row = samples.rows[position]
    number = samples.field(position, "doc_id", int)
    answer = row.get("filtered_resps")
    while isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, str):
        raise samples.problem(
            position,
            f"(doc_id {number}) has filtered_resps {answer!r:.60}; expected one generated answer, "
            "as of tasks with output_type: generate_until",
        )
    prompt = row.get("input")
    fields = dict(_identifying(row))
    return HarnessRow(number, prompt if isinstance(prompt, str) else "", answer.strip(), fields)


def _identifying(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the texts and integers of a sample's document, and of what its metrics came from."""
    for name, value in row.items():
        for inner, each in value.items() if isinstance(value, dict) else ():
            if (text := _as_text(each)) is not None:
                yield f"{name}.{inner}", text


def _table(path: Path, rows: Sequence[Mapping[str, Any]]) -> HarnessFile:
    answers = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not row.keys() >= VLM_EVAL_KIT_FIELDS:
            raise FileFormatError(
                f"{path}: row {number + 1} has no {' or no '.join(sorted(VLM_EVAL_KIT_FIELDS))}; "
                f"expected both, as in all predictions of {VLM_EVAL_KIT}"
            )
        texts = {name: text for name, each in row.items() if (text := _as_text(each)) is not None}
        # Spreadsheets and pandas turn an empty answer into a missing one.
        answer = texts.pop("prediction", "").strip()
        answers.append(HarnessRow(number, texts.get("question", ""), answer, texts))
    return HarnessFile(VLM_EVAL_KIT, answers)


def _as_text(value: object) -> str | None:
    """Return a text or a whole number as text; `None` for any other value."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int) else None


def _delimited_rows(path: Path, delimiter: str) -> list[dict[str, Any]]:
    with open_text(path, expected=f"predictions of {VLM_EVAL_KIT}", newline="") as file:
        try:
            # Rows that are too long have their rest under a name that is not a text.
            return [
                {name: each for name, each in row.items() if isinstance(name, str)}
                for row in csv.DictReader(file, delimiter=delimiter)
            ]
        except csv.Error as error:
            raise FileFormatError(
                f"{path}: not a table ({error}); expected predictions of {VLM_EVAL_KIT}"
            ) from None


def _is_workbook(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return WORKBOOK in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _workbook_rows(path: Path) -> list[dict[str, Any]]:
    """Read the first sheet of an Excel file.

    Raises:
        FileFormatError: The file is damaged or too large, or openpyxl is not installed.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > MAX_TEXT_BYTES:
        raise FileFormatError(
            f"{path} has {unpacked:,} bytes when unpacked: expected at most {MAX_TEXT_BYTES:,}"
        )
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise FileFormatError(
            f"{path} is an Excel file, which needs openpyxl: install vl-lst[xlsx], or let "
            f"{VLM_EVAL_KIT} write another format with PRED_FORMAT=tsv or PRED_FORMAT=json"
        ) from None
    try:
        workbook = load_workbook(path, read_only=True, data_only=True)
        try:
            rows = workbook.worksheets[0].iter_rows(values_only=True)
            header = [str(name) for name in next(rows, ())]
            return [dict(zip(header, row, strict=False)) for row in rows]
        finally:
            workbook.close()
    # The library raises errors of many kinds for damaged files.
    except Exception as error:  # noqa: BLE001
        raise FileFormatError(
            f"{path} cannot be read as an Excel file ({type(error).__name__}: {error!s:.80}); "
            f"expected predictions of {VLM_EVAL_KIT}. Write it again."
        ) from None
