"""NLVR2: official files, examples, CSV predictions, scores and error messages."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from eval.errors import FileFormatError, InputError, PredictionError
from tasks.nlvr2 import TASK

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "nlvr2"


def statements(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    file.write_text("".join(lines), encoding="utf-8")


def right(root: Path, split: str) -> dict[str, str]:
    return {example.id: example.targets[0][0] for example in TASK.load(root, split)}


def test_an_example_has_prompt_both_images_and_answer_word() -> None:
    examples = TASK.load(FIXTURE, "dev")
    assert examples[0].id == "dev-5-0-0"
    assert examples[0].image_ids == ("dev-5-0-img0", "dev-5-0-img1")
    assert examples[0].prompt == "nlvr: The left image shows exactly one kettle."
    assert [examples[n].targets[0][0] for n in range(3)] == ["true", "false", "false"]
    assert (TASK.images_per_example, TASK.heads) == (2, ("classify", "generate"))


def test_scores_are_fractions_with_both_subsets() -> None:
    predictions = right(FIXTURE, "dev") | {"dev-5-1-0": "true"}
    score = TASK.score(predictions, FIXTURE, "dev")
    assert score.metrics == {
        "accuracy": 0.8,
        "accuracy_interval": pytest.approx([0.3755, 0.9638], abs=5e-5),
        "majority_accuracy": 0.6,
        "consistency": pytest.approx(2 / 3),
        "balanced_accuracy": 0.5,
        "balanced_consistency": 0.0,
        "unbalanced_accuracy": 1.0,
        "unbalanced_consistency": 1.0,
    }
    assert (score.reasons, score.per_example["dev-5-1-0"]) == ({}, 0.0)


def test_missing_subsets_are_none_with_a_reason(root: Path) -> None:
    (root / "nlvr2" / "balanced_dev.json").unlink()
    score = TASK.score(right(root, "dev"), root, "dev")
    assert set(score.reasons) == {"balanced_accuracy", "balanced_consistency"}
    assert score.metrics["balanced_accuracy"] is None
    assert score.metrics["unbalanced_accuracy"] == 1.0


def test_subsets_may_be_in_their_official_folders(root: Path) -> None:
    folder = root / "nlvr2" / "balanced"
    folder.mkdir()
    (root / "nlvr2" / "balanced_dev.json").rename(folder / "balanced_dev.json")
    assert TASK.score(right(root, "dev"), root, "dev").metrics["balanced_accuracy"] == 1.0


def test_a_subset_of_other_statements_is_refused(root: Path) -> None:
    shutil.copy(root / "nlvr2" / "train.json", root / "nlvr2" / "balanced_dev.json")
    with pytest.raises(FileFormatError, match=r"2 statements are not in the split .*train-1-0-0"):
        TASK.score(right(root, "dev"), root, "dev")


def test_statements_without_labels_have_no_targets_and_no_score(root: Path) -> None:
    assert TASK.load(root, "test2")[0].targets == ()
    with pytest.raises(InputError, match="no labels to score against"):
        TASK.score({"test2-1-0-0": "true"}, root, "test2")
    rows = statements(root / "nlvr2" / "dev.json")
    del rows[1]["label"]
    write_lines(root / "nlvr2" / "dev.json", rows)
    with pytest.raises(FileFormatError, match=r"1 of 5 statements have no label \(dev-5-1-0\)"):
        TASK.load(root, "dev")


def test_an_lxmert_file_replaces_a_missing_file(root: Path) -> None:
    examples = TASK.load(root, "test1")
    assert examples[0].image_ids == ("test1-5-0-img0", "test1-5-0-img1")
    assert examples[0].targets == (("true", 1.0),)
    shutil.copy(root / "nlvr2" / "test.json", root / "nlvr2" / "train.json")
    assert TASK.load(root, "train")[0] == examples[0]


def test_sentences_may_contain_line_separators(root: Path) -> None:
    rows = statements(root / "nlvr2" / "dev.json")
    rows[0]["sentence"] = "One\u2028kettle\u0085here."
    write_lines(root / "nlvr2" / "dev.json", rows)
    assert TASK.load(root, "dev")[0].prompt == "nlvr: One\u2028kettle\u0085here."


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("label", "true", "line 2 has label 'true'; expected 'True' or 'False', capitalized"),
        ("label", True, "line 2 has label True"),
        ("identifier", "dev-5-1", "line 2 has identifier 'dev-5-1'; expected split-set-pair"),
        ("identifier", "dev-5-0-0", r"1 value of identifier occurs more than once \(dev-5-0-0\)"),
        ("sentence", None, "line 2 has sentence None"),
    ],
)
def test_malformed_statements_are_explained(
    root: Path, field: str, value: object, message: str
) -> None:
    rows = statements(root / "nlvr2" / "dev.json")
    rows[1][field] = value
    write_lines(root / "nlvr2" / "dev.json", rows)
    with pytest.raises(FileFormatError, match=rf"dev.json: {message}"):
        TASK.load(root, "dev")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "contains no statements"),
        ('{"identifier": "dev-1-0-0", "sentence": "x"}\n\n', "line 2 is empty"),
        ('{"identifier": "dev-1-', "line 1 is not valid JSON"),
        ("7\n", "line 1 is an integer"),
        ('[{"identifier": "dev-1-0-0", "sent": "x", "label": 2}]', r"\[0\] has label 2"),
    ],
)
def test_other_files_are_refused(root: Path, content: str, message: str) -> None:
    (root / "nlvr2" / "dev.json").write_text(content, encoding="utf-8")
    with pytest.raises(FileFormatError, match=message):
        TASK.load(root, "dev")


def test_predictions_are_written_with_official_labels(tmp_path: Path) -> None:
    file = tmp_path / "predictions.csv"
    answers = {"dev-5-0-0": "true", "dev-5-1-0": "false", "dev-5-0-1": "yes,\nno"}
    TASK.write_predictions(answers, file)
    assert file.read_text(encoding="utf-8") == "dev-5-0-0,True\ndev-5-1-0,False\ndev-5-0-1,\n"
    assert TASK.read_predictions(file) == {**answers, "dev-5-0-1": ""}


def test_malformed_files_require_strict_scoring(tmp_path: Path) -> None:
    file = tmp_path / "predictions.csv"
    TASK.write_predictions(right(FIXTURE, "dev"), file)
    text = file.read_text(encoding="utf-8").replace("dev-5-0-0,True", "dev-5-0-0, True")
    file.write_text("identifier,prediction\n" + text.replace("False", "FALSE"), encoding="utf-8")
    with pytest.raises(PredictionError, match="line 1 has the label 'prediction'"):
        TASK.read_predictions(file)
    assert TASK.score_strictly is not None
    assert TASK.score_strictly(file, FIXTURE, "dev").metrics["accuracy"] == 0.8


@pytest.mark.parametrize("layout", ["same", "split"])
def test_real_statements_load_and_their_images_exist(shared_data: Path, layout: str) -> None:
    root = shared_data / "data" / "nlvr_real" / layout
    examples = TASK.load(root, "dev")
    assert len(examples) == 600
    stems = {file.stem for file in (root / "images").rglob("*.png")}
    assert set(examples.image_ids()) <= stems
    score = TASK.score(dict.fromkeys(examples.ids(), "true"), root, "dev")
    share = sum(example.targets == (("true", 1.0),) for example in examples) / 600
    assert score.metrics["accuracy"] == pytest.approx(share)


def test_official_dev_statements_score_like_the_official_script(
    shared_data: Path, tmp_path: Path
) -> None:
    official = shared_data / "reference" / "evaluators" / "nlvr2"
    folder = tmp_path / "nlvr2"
    folder.mkdir()
    for name in ("dev.json", "balanced_dev.json", "unbalanced_dev.json"):
        shutil.copyfile(official / name, folder / name)
    predictions = TASK.read_predictions(official / "pred_acc75.csv")
    metrics = TASK.score(predictions, tmp_path, "dev").metrics
    expected = json.loads((official / "expected.json").read_text(encoding="utf-8"))
    scores = expected["results"]["pred_acc75.csv"]
    assert (metrics["accuracy"], metrics["consistency"]) == (
        scores["accuracy"],
        scores["consistency"],
    )


def test_written_answers_keep_their_score(root: Path) -> None:
    """Scoring ignores case, so writing must too."""
    predictions = {id_: word.capitalize() for id_, word in right(root, "dev").items()}
    assert TASK.score(predictions, root, "dev").metrics["accuracy"] == 1.0
    TASK.write_predictions(predictions, root / "p.csv")
    assert TASK.read_predictions(root / "p.csv") == right(root, "dev")


def test_a_byte_order_mark_before_statements_is_skipped(root: Path) -> None:
    for name, split in (("dev.json", "dev"), ("test.json", "test1")):
        before = TASK.load(root, split).ids()
        file = root / "nlvr2" / name
        file.write_text(file.read_text(), encoding="utf-8-sig")
        assert TASK.load(root, split).ids() == before
