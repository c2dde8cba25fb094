"""`vl-lst score` of GQA and NLVR2: official numbers, reasons for gaps, strict reading."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from vl_lst.cli import main


def score(task: str, root: Path, split: str, predictions: Path, *more: str) -> int:
    given = ["--data-root", str(root), "--split", split, "--predictions", str(predictions)]
    return main(["score", "--task", task, *given, *more])


def document_of(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture
def nlvr2_official(shared_data: Path) -> Path:
    return shared_data / "reference" / "evaluators" / "nlvr2"


@pytest.fixture
def nlvr2_root(nlvr2_official: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "nlvr2"
    folder.mkdir(parents=True)
    for name in ("dev.json", "balanced_dev.json", "unbalanced_dev.json"):
        shutil.copyfile(nlvr2_official / name, folder / name)
    return folder.parent


def test_gqa_document_and_table(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "score.json"
    predictions = golden / "gqa" / "val_predictions.json"
    assert score("gqa", golden, "val_all", predictions, "--json", str(out)) == 0
    shown = capsys.readouterr()
    assert "66.8478" in shown.out
    assert "verify (38)" in shown.out
    assert shown.out.index("│   4 (36)") < shown.out.index("│   10 (13)")
    assert shown.err.startswith("note: no grounding: it compares the attended image regions")
    expected = document_of(golden / "gqa" / "expected_val.json")["scores"]
    document = document_of(out)
    assert list(document["reasons"]) == ["grounding"]
    for name in ("accuracy", "consistency", "validity", "plausibility", "distribution"):
        assert document["metrics"][name] == expected[name]
    assert document["metrics"]["accuracy_per_length"] == expected["accuracyPerLength"]


def test_gqa_gives_the_reason_for_a_null_metric(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "score.json"
    predictions = golden / "gqa" / "valbalancedonly_predictions.json"
    assert score("gqa", golden, "val", predictions, "--json", str(out)) == 0
    shown = capsys.readouterr()
    assert "not computed" in shown.out
    assert "note: no consistency: 37 of the 193" in shown.err
    document = document_of(out)
    assert document["metrics"]["consistency"] is None
    assert list(document["reasons"]) == ["consistency", "grounding"]


@pytest.mark.parametrize(
    ("metric", "message"),
    [("consistency", "consistency cannot be computed: 37 of"), ("cider", "no metric 'cider'")],
)
def test_a_required_metric_that_is_missing_is_an_error(
    golden: Path, capsys: pytest.CaptureFixture[str], metric: str, message: str
) -> None:
    predictions = golden / "gqa" / "valbalancedonly_predictions.json"
    assert score("gqa", golden, "val", predictions, "--require", metric) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err


def test_gqa_integer_ids_are_one_message(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = tmp_path / "predictions.json"
    results = document_of(golden / "gqa" / "val_predictions.json")
    integers = [{**each, "questionId": int(each["questionId"])} for each in results]
    predictions.write_text(json.dumps(integers), encoding="utf-8")
    assert score("gqa", golden, "val_all", predictions) == 1
    assert "Keep them as strings" in capsys.readouterr().err


def test_nlvr2_document_and_table(
    nlvr2_official: Path, nlvr2_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "score.json"
    predictions = nlvr2_official / "pred_acc75.csv"
    assert score("nlvr2", nlvr2_root, "dev", predictions, "--json", str(out)) == 0
    metrics = document_of(out)["metrics"]
    expected = document_of(nlvr2_official / "expected.json")["results"]["pred_acc75.csv"]
    assert metrics["accuracy"] == expected["accuracy"]
    assert metrics["consistency"] == expected["consistency"]
    low, high = metrics["accuracy_interval"]
    assert low < metrics["accuracy"] < high
    assert 0.5 <= metrics["majority_accuracy"] < low
    assert f"│ {low:.4f} to {high:.4f} (95%) │" in capsys.readouterr().out
    for subset in ("balanced", "unbalanced"):
        percent = expected[f"{subset}_accuracy_percent"]
        assert 100 * metrics[f"{subset}_accuracy"] == pytest.approx(percent, abs=1e-12)


def test_strict_official_gives_the_official_numbers_of_a_bad_file(
    nlvr2_official: Path, nlvr2_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "score.json"
    predictions = nlvr2_official / "pred_quirks.csv"
    assert score("nlvr2", nlvr2_root, "dev", predictions, "--json", str(out)) == 1
    assert "line 1 has the label 'prediction'" in capsys.readouterr().err
    assert not out.exists()
    strictly = ("--strict-official", "--json", str(out))
    assert score("nlvr2", nlvr2_root, "dev", predictions, *strictly) == 0
    expected = document_of(nlvr2_official / "expected.json")["results"]["pred_quirks.csv"]
    assert document_of(out)["metrics"]["accuracy"] == expected["accuracy"]
    assert document_of(out)["metrics"]["consistency"] == expected["consistency"]
    assert not {"accuracy_interval", "majority_accuracy"} & document_of(out)["metrics"].keys()


def test_a_task_without_a_strict_reading_refuses_it(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = golden / "vqa" / "v2_OpenEnded_mscoco_val2014_fakeA_results.json"
    assert score("vqa", golden, "val2014", predictions, "--strict-official") == 1
    assert "leave out --strict-official" in capsys.readouterr().err
