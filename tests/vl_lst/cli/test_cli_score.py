"""`vl-lst score`: the official numbers, one message for what is wrong, and no torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vl_lst.cli import main

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "vqa"
VAL = "v2_OpenEnded_mscoco_val2014"


@pytest.fixture
def edge_root(golden: Path, tmp_path: Path) -> Path:
    """Questions outside the specification, in the official layout."""
    folder = tmp_path / "data" / "vqa"
    folder.mkdir(parents=True)
    shutil.copy(golden / "vqa/edge_questions.json", folder / f"{VAL}_questions.json")
    shutil.copy(golden / "vqa/edge_annotations.json", folder / "v2_mscoco_val2014_annotations.json")
    return folder.parent


def arguments(root: Path, predictions: Path, *more: str) -> list[str]:
    given = ["--data-root", str(root), "--predictions", str(predictions)]
    return ["score", "--task", "vqa", "--split", "val2014", *given, *more]


@pytest.mark.parametrize("name", ["fakeA", "majority"])
def test_json_holds_the_official_numbers(golden: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "score.json"
    predictions = golden / "vqa" / f"{VAL}_{name}_results.json"
    assert main(arguments(golden, predictions, "--json", str(out))) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    expected = json.loads((golden / f"vqa/expected_{name}.json").read_text(encoding="utf-8"))
    assert list(document) == ["task", "split", "protocol", "metrics", "per_example"]
    assert (document["task"], document["split"]) == ("vqa", "val2014")
    assert document["metrics"]["accuracy"] == expected["accuracy"]["overall"]
    assert document["metrics"]["per_question_type"] == expected["accuracy"]["perQuestionType"]
    assert document["metrics"]["per_answer_type"] == expected["accuracy"]["perAnswerType"]
    assert document["per_example"] == expected["evalQA"]


def test_the_table_shows_every_metric_and_notes_go_to_standard_error(
    edge_root: Path, golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(edge_root, golden / "vqa/edge_results.json")) == 0
    shown = capsys.readouterr()
    for text in ("vqa val2014: 12 examples", "39.26", "yes/no", "42.83", "vqa_v2 official"):
        assert text in shown.out
    assert "16.67 points are lost to the form of answers" in shown.err
    assert main(arguments(edge_root, golden / "vqa/edge_results.json", "--quiet")) == 0
    quiet = capsys.readouterr()
    assert (quiet.out, quiet.err) == (shown.out, "")


def test_predictions_of_other_examples_are_one_message(
    edge_root: Path, golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = golden / "vqa" / f"{VAL}_fakeA_results.json"
    assert main(arguments(edge_root, predictions)) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "12 have no prediction" in shown.err
    assert "400 predictions belong to other examples" in shown.err
    assert "Traceback" not in shown.err


def test_an_unknown_task_is_one_message(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = arguments(golden, golden / "vqa/edge_results.json")
    given[2] = "okvqa"
    assert main(given) == 1
    assert "no task 'okvqa'" in capsys.readouterr().err


def test_question_types_that_look_like_markup_are_shown_as_they_are(
    edge_root: Path, golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = edge_root / "vqa/v2_mscoco_val2014_annotations.json"
    text = file.read_text(encoding="utf-8").replace('"is the"', '"[/red] is"')
    file.write_text(text, encoding="utf-8")
    assert main(arguments(edge_root, golden / "vqa/edge_results.json")) == 0
    assert "[/red] is" in capsys.readouterr().out


def test_scoring_imports_neither_torch_nor_datasets(tmp_path: Path) -> None:
    predictions = tmp_path / "results.json"
    annotations = json.loads(
        (FIXTURE / "vqa/v2_mscoco_val2014_annotations.json").read_text(encoding="utf-8")
    )
    results = [
        {"question_id": each["question_id"], "answer": "yes"} for each in annotations["annotations"]
    ]
    predictions.write_text(json.dumps(results), encoding="utf-8")
    code = (
        "import sys; from vl_lst.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'datasets', 'transformers', 'h5py', 'open_clip'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    command = [sys.executable, "-c", code, *arguments(FIXTURE, predictions)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
