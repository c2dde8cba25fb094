"""`vl-lst score` of GLUE: the reference's scores, and submissions."""

import json
from pathlib import Path
from typing import Any

import pytest

from vl_lst.cli import main

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
TASKS = ("cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "stsb")
NAMES = {
    "matthews_correlation": "matthews",
    "spearmanr": "spearman",
    "average_metrics": "average",
}


def read(name: str) -> Any:
    return json.loads((FIXTURES / "glue" / name).read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("task", TASKS)
def test_own_answers_score_as_in_the_reference(task: str, tmp_path: Path) -> None:
    """Predictions may be any text: empty, with spaces, or no answer at all."""
    own, predictions, out = (tmp_path / name for name in ("own.jsonl", "p.json", "score.json"))
    for case, expected in zip(
        read(f"{task}_cases.json"), read(f"expected_{task}.json"), strict=True
    ):
        lines = [
            {"id": n, "prompt": f"text {n}", "answers": [target]}
            for n, target in enumerate(case["targets"])
        ]
        own.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        rows = [{"id": n, "answer": text} for n, text in enumerate(case["predictions"])]
        predictions.write_text(json.dumps(rows), encoding="utf-8")
        given = ["--file", str(own), "--predictions", str(predictions), "--json", str(out)]
        assert main(["score", "--task", task, *given, "--quiet"]) == 0, case["name"]
        metrics = json.loads(out.read_text(encoding="utf-8"))["metrics"]
        for name, value in expected["expected"].items():
            found = metrics[NAMES.get(name, name)]
            assert found == pytest.approx(value, rel=0, abs=1e-9), (case["name"], name)


def test_official_splits_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = tmp_path / "p.json"
    predictions.write_text(json.dumps([{"id": str(n), "answer": "1"} for n in range(4)]))
    root = str(FIXTURES / "rte")
    arguments = ["score", "--task", "rte", "--data-root", root, "--predictions", str(predictions)]
    assert main([*arguments, "--split", "dev"]) == 0
    shown = capsys.readouterr()
    assert "glue official" in shown.out
    assert "50.00" in shown.out
    assert main([*arguments, "--split", "test"]) == 1
    assert "the correct answers of rte test are not public" in capsys.readouterr().err


def test_a_submission_is_checked_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither annotations nor the split are required."""
    path = tmp_path / "WNLI.tsv"
    path.write_text("index\tprediction\n" + "".join(f"{n}\t0\n" for n in range(146)))
    assert main(["score", "--task", "wnli", "--check-submission", str(path)]) == 0
    assert "WNLI.tsv is valid: 146 answers of test, for GLUE" in capsys.readouterr().out
    path.write_text("index\tprediction\n0\t2\n")
    assert main(["score", "--task", "wnli", "--check-submission", str(path)]) == 1
    message = "line 2 has the prediction '2'; expected '0' or '1'"
    assert message in " ".join(capsys.readouterr().err.split())
    assert main(["score", "--task", "vqa", "--check-submission", str(path)]) == 1
    message = "give one of test-dev2015, test2015 with --split"
    assert message in " ".join(capsys.readouterr().err.split())
