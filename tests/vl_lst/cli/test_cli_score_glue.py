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


@pytest.mark.parametrize(
    ("task", "file", "label"),
    [
        ("rte", "RTE/dev.tsv", "label"),
        ("mnli", "MNLI/dev_matched.tsv", "gold_label"),
        ("qnli", "QNLI/dev.tsv", "label"),
    ],
)
def test_files_of_the_server_s_format_are_scored(
    task: str, file: str, label: str, tmp_path: Path
) -> None:
    """They resemble tables of VLMEvalKit, whose predictions are not the words of the data set."""
    official = FIXTURES / task / "glue" / file
    header, *rows = (line.split("\t") for line in official.read_text("utf-8").splitlines())
    names = header.index("index"), header.index(label)
    path, out = tmp_path / "submission.tsv", tmp_path / "score.json"
    lines = [["index", "prediction"], *([row[at] for at in names] for row in rows)]
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    given = ["--data-root", str(FIXTURES / task), "--split", official.stem]
    given += ["--predictions", str(path), "--json", str(out)]
    assert main(["score", "--task", task, *given]) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["metrics"]["accuracy"] == 100.0
    assert "notes" not in document


def test_files_of_the_server_s_format_are_scored_on_own_examples(tmp_path: Path) -> None:
    own, path, out = (tmp_path / name for name in ("own.jsonl", "RTE.tsv", "score.json"))
    lines = [{"id": n, "prompt": ["A", "B"], "answers": [str(n)]} for n in range(2)]
    own.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    path.write_text("index\tprediction\n1\tnot_entailment\n0\tentailment\n")
    given = ["--file", str(own), "--predictions", str(path), "--json", str(out)]
    assert main(["score", "--task", "rte", *given]) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["metrics"]["accuracy"] == 100.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("index\tprediction\n0\tentailment\tsurely\n", "line 2 has 3 columns; expected 2"),
        ("index\tprediction\n0\tentailment\n\n", "line 3 is empty; expected an index and a pred"),
        ("index\tprediction\tmore\n0\tentailment\tx\n", "expected the header 'index\\tprediction'"),
        ("index,prediction\n0,entailment\n", "expected the header 'index\\tprediction', separated"),
        (
            'index\tprediction\n0\t"entailment\n1\tx"\n',
            "predictions do not match the 4 examples: 2 ",
        ),
    ],
)
def test_malformed_files_of_the_server_s_format_are_refused(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quotation marks have no meaning in them, and no column is ignored."""
    path = tmp_path / "RTE.tsv"
    path.write_text(content)
    given = ["--data-root", str(FIXTURES / "rte"), "--split", "dev", "--predictions", str(path)]
    assert main(["score", "--task", "rte", *given]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


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
