"""NLVR2's metrics equal the official script's; files that it misreads are errors by default."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.errors import FileFormatError, InputError, PredictionError
from eval.nlvr2 import read_label_lines, score_nlvr2

LABELS = {
    "dev-5-0-0": "True",
    "dev-5-1-0": "False",
    "dev-5-0-1": "False",
    "dev-50-0-0": "True",
}


@pytest.fixture
def official(shared_data: Path) -> Path:
    return shared_data / "reference" / "evaluators" / "nlvr2"


def labels_of(file: Path) -> dict[str, str]:
    statements = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {each["identifier"]: each["label"] for each in statements}


def expected(official: Path, name: str) -> dict[str, Any]:
    document = json.loads((official / "expected.json").read_text(encoding="utf-8"))
    result: dict[str, Any] = document["results"][name]
    return result


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "predictions.csv"


NAMES = ["pred_acc75.csv", "pred_acc95_mixedcase.csv", "pred_all_true.csv", "pred_quirks.csv"]


@pytest.mark.parametrize("name", NAMES)
def test_strict_scoring_gives_the_official_numbers(official: Path, name: str) -> None:
    predictions = read_label_lines(official / name, strict_official=True)
    scores = score_nlvr2(predictions, labels_of(official / "dev.json"), strict_official=True)
    numbers = expected(official, name)
    assert (scores.accuracy, scores.consistency) == (numbers["accuracy"], numbers["consistency"])


@pytest.mark.parametrize("name", ["pred_acc75.csv", "pred_all_true.csv"])
def test_valid_files_score_the_same_without_strict_scoring(official: Path, name: str) -> None:
    predictions = read_label_lines(official / name)
    scores = score_nlvr2(predictions, labels_of(official / "dev.json"))
    numbers = expected(official, name)
    assert (scores.accuracy, scores.consistency) == (numbers["accuracy"], numbers["consistency"])


@pytest.mark.parametrize("name", ["pred_acc95_mixedcase.csv", "pred_quirks.csv"])
def test_malformed_lines_are_refused_and_named(official: Path, name: str) -> None:
    with pytest.raises(PredictionError, match=r"line \d+ .* more such lines.*--strict-official"):
        read_label_lines(official / name)


@pytest.mark.parametrize("subset", ["balanced", "unbalanced"])
@pytest.mark.parametrize("name", NAMES[:3])
def test_official_numbers_of_the_subsets(official: Path, name: str, subset: str) -> None:
    predictions = read_label_lines(official / name, strict_official=True)
    labels = labels_of(official / f"{subset}_dev.json")
    scores = score_nlvr2({id_: predictions[id_] for id_ in labels}, labels)
    percent = expected(official, name)[f"{subset}_accuracy_percent"]
    assert 100 * scores.accuracy == pytest.approx(percent, abs=1e-12)


def test_a_sentence_is_consistent_only_if_always_correct() -> None:
    right = {id_: label.lower() for id_, label in LABELS.items()}
    assert score_nlvr2(right, LABELS).consistency == 1.0
    scores = score_nlvr2({**right, "dev-5-1-0": "true"}, LABELS)
    assert scores.accuracy == 0.75
    assert scores.consistency == pytest.approx(2 / 3)
    assert scores.per_example == dict.fromkeys(LABELS, True) | {"dev-5-1-0": False}


@pytest.mark.parametrize("answer", ["", "maybe", "True.", " True"])
def test_any_other_answer_is_wrong(answer: str) -> None:
    assert score_nlvr2(dict.fromkeys(LABELS, answer), LABELS).accuracy == 0.0


def test_missing_and_extra_predictions_are_counted() -> None:
    predictions = {**LABELS, "dev-9-9-9": "True"}
    del predictions["dev-5-0-1"]
    with pytest.raises(PredictionError, match=r"1 has no prediction \(dev-5-0-1\) and 1 pred"):
        score_nlvr2(predictions, LABELS)


def test_the_official_script_ignores_extra_rows_and_stops_at_missing_ones() -> None:
    extra = {**LABELS, "identifier": "prediction"}
    assert score_nlvr2(extra, LABELS, strict_official=True).accuracy == 1.0
    with pytest.raises(PredictionError, match=r"1 of the 4 .* gives no scores"):
        score_nlvr2(dict(list(extra.items())[1:]), LABELS, strict_official=True)


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no labels"):
        score_nlvr2({}, {})


def test_windows_line_ends_and_empty_labels_are_read(file: Path) -> None:
    file.write_bytes(b"dev-5-0-0,True\r\ndev-5-1-0,False\ndev-5-0-1,")
    assert read_label_lines(file) == {"dev-5-0-0": "True", "dev-5-1-0": "False", "dev-5-0-1": ""}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dev-5-1-0, True", "line 2 has spaces"),
        ("dev-5-1-0 ,True", "line 2 has spaces"),
        ("", "line 2 is blank"),
        ("identifier,prediction", "line 2 has the label 'prediction', neither"),
        ("dev-5-1-0", "line 2 has 1 column"),
        ("dev-5-1-0,True,0.9", "line 2 has 3 columns"),
        ("dev-5-0-0,False", "line 2 answers dev-5-0-0 again after line 1"),
        ("dev-5-1-0,FALSE", "line 2 has the label 'FALSE', not 'False'"),
        ("dev-5-1-0,true", "line 2 has the label 'true', not 'True'"),
        ("dev-5-1-0,1", "line 2 has the label '1', neither"),
    ],
)
def test_each_malformed_line_is_explained(file: Path, line: str, message: str) -> None:
    file.write_text(f"dev-5-0-0,True\n{line}\ndev-5-0-1,False\n", encoding="utf-8")
    with pytest.raises(PredictionError, match=message):
        read_label_lines(file)


def test_a_line_without_comma_stops_the_official_script(file: Path) -> None:
    file.write_text("dev-5-0-0,True\n\n", encoding="utf-8")
    with pytest.raises(PredictionError, match="line 2 has no comma"):
        read_label_lines(file, strict_official=True)


def test_missing_and_binary_files_are_explained(file: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        read_label_lines(file)
    with pytest.raises(InputError, match="is a folder"):
        read_label_lines(file.parent)
    file.write_bytes(b"dev,\xff\n")
    with pytest.raises(FileFormatError, match="byte 4 of the file. is not UTF-8"):
        read_label_lines(file)


def test_a_byte_order_mark_is_refused(file: Path) -> None:
    file.write_text("dev-5-0-0,True\n", encoding="utf-8-sig")
    with pytest.raises(PredictionError, match="begins with a byte-order mark.*without the mark"):
        read_label_lines(file)
    assert list(read_label_lines(file, strict_official=True)) == ["\ufeffdev-5-0-0"]
    file.write_text("dev-5-0-0,True\n", encoding="utf-16")
    with pytest.raises(FileFormatError, match="is UTF-16 text"):
        read_label_lines(file)
