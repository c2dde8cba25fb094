"""GQA: official files, examples, scores and error messages."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from eval.errors import FileFormatError, InputError
from tasks._answers import load_answer_list
from tasks.gqa import TASK

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "gqa"
VAL = "val_balanced_questions.json"


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def write(file: Path, document: object) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(document), encoding="utf-8")


def answers(root: Path, split: str) -> dict[str, str]:
    examples = TASK.load(root, split)
    return {example.id: example.targets[0][0] for example in examples}


def test_an_example_has_prompt_image_and_answer() -> None:
    example = TASK.load(FIXTURE, "train")[0]
    assert example.id == "0101"
    assert example.image_ids == ("2300009",)
    assert example.prompt == "gqa: Which kind of fruit is on the plate?"
    assert example.targets == (("pear", 1.0),)


def test_leading_zeros_of_ids_are_kept() -> None:
    assert TASK.load(FIXTURE, "train").ids() == ["0101", "0102", "000103"]


def test_splits_are_balanced_unless_named_all() -> None:
    balanced, everything = TASK.load(FIXTURE, "val").ids(), TASK.load(FIXTURE, "val_all").ids()
    assert (len(balanced), len(everything)) == (4, 6)
    assert set(balanced) < set(everything)
    assert TASK.load(FIXTURE, "val_balanced").ids() == balanced


def test_a_split_without_answers_has_no_targets_and_no_score() -> None:
    assert TASK.load(FIXTURE, "test")[0].targets == ()
    with pytest.raises(InputError, match="not public"):
        TASK.score({"0301": "yes"}, FIXTURE, "test")


def test_metrics_without_questions_or_files_are_none_with_a_reason() -> None:
    score = TASK.score(answers(FIXTURE, "val"), FIXTURE, "val")
    assert score.metrics["accuracy"] == 100.0
    assert score.metrics["accuracy_per_steps"] == {
        "1": {"accuracy": 100.0, "count": 1},
        "2": {"accuracy": 100.0, "count": 2},
        "3": {"accuracy": 100.0, "count": 1},
    }
    assert score.metrics["validity"] == 100.0
    assert score.metrics["consistency"] is None
    assert "1 of the 3 questions that balanced ones entail" in score.reasons["consistency"]
    without_choices = TASK.score(answers(FIXTURE, "train"), FIXTURE, "train")
    assert without_choices.metrics["validity"] is None
    assert {name for name, value in without_choices.metrics.items() if value is None} == set(
        without_choices.reasons
    )


def test_consistency_uses_unbalanced_questions() -> None:
    predictions = answers(FIXTURE, "val_all") | {"09": "yes"}
    score = TASK.score(predictions, FIXTURE, "val_all")
    assert score.metrics["accuracy"] == 100.0
    assert score.metrics["consistency"] == pytest.approx(100 * (1 / 2 + 1) / 2)
    assert score.per_example["09"] == 0.0


def test_accuracy_averages_balanced_questions_only() -> None:
    predictions = answers(FIXTURE, "val_all")
    wrong = dict.fromkeys(predictions, "none") | {"09": predictions["09"]}
    score = TASK.score(wrong, FIXTURE, "val_all")
    assert score.averaged is not None
    assert score.averaged.keys() == set(TASK.load(FIXTURE, "val").ids())
    assert fmean(score.averaged.values()) == pytest.approx(score.metrics["accuracy"])
    assert fmean(score.per_example.values()) != pytest.approx(score.metrics["accuracy"])


def test_only_consistency_requires_unbalanced_predictions() -> None:
    score = TASK.score(answers(FIXTURE, "val"), FIXTURE, "val_all")
    missing = [name for name, value in score.metrics.items() if value is None]
    assert missing == ["consistency", "grounding"]


def test_a_folder_of_chunks_is_one_split(root: Path) -> None:
    file = root / "gqa" / "train_balanced_questions.json"
    questions = read(file)
    for number, (id_, each) in enumerate(questions.items()):
        chunk = f"train_all_questions_{number}.json"
        write(root / "gqa" / "train_all_questions" / chunk, {id_: each})
    assert TASK.load(root, "train_all").ids() == list(questions)
    chunk_1 = root / "gqa" / "train_all_questions" / "train_all_questions_1.json"
    write(chunk_1, read(file))
    with pytest.raises(FileFormatError, match="_1.json: the entry '0101' occurs more than once"):
        TASK.load(root, "train_all")
    chunk_1.unlink()
    with pytest.raises(InputError, match="2 chunks but not train_all_questions_1.json"):
        TASK.load(root, "train_all")


def test_lxmert_files_replace_missing_official_files(root: Path) -> None:
    examples = TASK.load(root, "testdev")
    assert examples.ids() == ["0401", "0402"]
    assert examples[0].prompt == "gqa: What is next to the tree?"
    assert (examples[0].image_ids, examples[0].targets) == (("n161",), (("bench", 1.0),))
    score = TASK.score({"0401": "bench", "0402": "yes"}, root, "testdev")
    assert score.metrics["accuracy"] == 50.0
    assert score.metrics["binary"] is None
    assert "testdev_balanced_questions.json" in score.reasons["binary"]
    assert set(score.reasons) == set(score.metrics) - {"accuracy"}
    shutil.copy(root / "gqa" / VAL, root / "gqa" / "testdev_balanced_questions.json")
    assert TASK.load(root, "testdev").ids() == TASK.load(root, "val").ids()


def test_repeated_ids_in_lxmert_files_are_refused(root: Path) -> None:
    questions = read(root / "gqa" / "testdev.json")
    write(root / "gqa" / "testdev.json", [*questions, questions[0]])
    with pytest.raises(FileFormatError, match=r"1 value of question_id .* \(0401\)"):
        TASK.load(root, "testdev")
    with pytest.raises(FileFormatError, match=r"1 value of question_id .* \(0401\)"):
        TASK.score({"0401": "bench", "0402": "yes"}, root, "testdev")


def test_lists_without_labels_have_no_targets(root: Path) -> None:
    item = {"img_id": "n1", "question_id": "0501", "sent": "Is it a dog?"}
    write(root / "gqa" / "submit.json", [item])
    assert TASK.load(root, "submission_all")[0].targets == ()


def test_the_official_answer_list_may_lack_an_answer(root: Path) -> None:
    file = root / "gqa" / "trainval_label2ans.json"
    write(file, ["yes", "no"])
    assert TASK.answer_list == "gqa/trainval_label2ans.json"
    assert load_answer_list(root / TASK.answer_list) == ["yes", "no"]
    assert TASK.load(root, "train")[0].targets == (("pear", 1.0),)


def first(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    """Set a field of the first question; `None` deletes it."""

    def change(questions: dict[str, Any]) -> None:
        question = next(iter(questions.values()))
        if value is None:
            del question[name]
        else:
            question[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first("imageId", 2300001), r"the entry '0201' has imageId 2300001, an integer"),
        (first("question", None), r"the entry '0201' has no 'question'"),
        (first("answer", None), r"the entry '0201' has no 'answer'"),
        (lambda questions: questions.update({"0201": 7}), "the entry '0201' is an integer"),
        (lambda questions: questions.clear(), "contains no entries"),
    ],
)
def test_malformed_questions_are_explained(
    root: Path, cache: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    questions = read(root / "gqa" / VAL)
    change(questions)
    write(root / "gqa" / VAL, questions)
    with pytest.raises(FileFormatError, match=rf"{VAL}:? {message}"):
        TASK.load(root, "val")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first("isBalanced", 1), "has isBalanced 1, an integer; expected true or false"),
        (first("types", None), "has no 'types'"),
        (first("types", {"structural": "verify", "detailed": "x"}), "has no 'semantic'"),
        (first("groups", {"global": 3}), r"has the groups \{\'global\': 3\}; expected"),
        (first("entailed", [202]), "Keep them as strings"),
        (first("semantic", [{"operation": "select"}]), "has no 'argument'"),
    ],
)
def test_fields_for_scoring_are_checked_on_loading(
    root: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    """A long training must not fail at its first validation; a training split needs less."""
    questions = read(root / "gqa" / VAL)
    predictions = answers(root, "val")
    change(questions)
    write(root / "gqa" / VAL, questions)
    with pytest.raises(FileFormatError, match=message):
        TASK.load(root, "val")
    with pytest.raises(FileFormatError, match=message):
        TASK.score(predictions, root, "val")
    write(root / "gqa" / "train_balanced_questions.json", questions)
    assert len(TASK.load(root, "train")) == len(questions)


def test_choices_of_another_split_are_refused(root: Path) -> None:
    file = root / "gqa" / "val_choices.json"
    write(file, {"77": {"valid": [], "plausible": []}})
    with pytest.raises(FileFormatError, match="4 balanced questions have no entry"):
        TASK.score(answers(root, "val"), root, "val")
    write(file, {"0201": {"valid": "yes", "plausible": []}})
    with pytest.raises(FileFormatError, match="the entry '0201' has valid 'yes'"):
        TASK.score(answers(root, "val"), root, "val")


def test_strict_scoring_takes_the_last_prediction_and_ignores_others(tmp_path: Path) -> None:
    right = [{"questionId": id_, "prediction": a} for id_, a in answers(FIXTURE, "val").items()]
    wrong = [{"questionId": each["questionId"], "prediction": "x"} for each in right]
    unknown = [{"questionId": "77", "prediction": "x"}]
    write(tmp_path / "results.json", [*wrong, *right, *unknown])
    assert TASK.score_strictly is not None
    score = TASK.score_strictly(tmp_path / "results.json", FIXTURE, "val")
    assert score.metrics["accuracy"] == 100.0
    with pytest.raises(InputError, match="the official script cannot read"):
        TASK.score_strictly(tmp_path / "results.json", FIXTURE, "testdev")


@pytest.mark.parametrize("split", ["val", "testdev"])
def test_a_note_reports_points_lost_by_formatting(split: str, root: Path) -> None:
    """Both for official and for LXMERT's files; the accuracy stays the official one."""
    right = {example.id: example.targets[0][0] for example in TASK.load(root, split)}
    assert not TASK.score(right, root, split).notes
    first = next(iter(right))
    score = TASK.score({**right, first: f" {right[first].upper()}."}, root, split)
    assert score.metrics["accuracy"] == pytest.approx(100 - 100 / len(right))
    (note,) = score.notes
    assert note.startswith(
        f"1 of {len(right)} predictions differ from a correct answer only in case"
    )
    assert f"costs {100 / len(right):.2f} percentage points" in note
    wrong = TASK.score({**right, first: "something else"}, root, split)
    assert not wrong.notes


def test_repeated_keys_in_a_question_are_refused(root: Path) -> None:
    file = root / "gqa" / VAL
    text = file.read_text().replace('"answer":', '"answer": "no", "answer":', 1)
    file.write_text(text)
    with pytest.raises(FileFormatError, match="the key 'answer' occurs more than once"):
        TASK.load(root, "val")


def test_a_byte_order_mark_before_questions_is_skipped(root: Path) -> None:
    file = root / "gqa" / VAL
    before = TASK.load(root, "val").ids()
    file.write_text(file.read_text(), encoding="utf-8-sig")
    assert TASK.load(root, "val").ids() == before


@pytest.mark.parametrize("groups", [{}, {"local": "a"}])
def test_a_question_without_a_valid_global_group_is_refused(
    root: Path, groups: dict[str, object]
) -> None:
    predictions = answers(root, "val")
    questions = read(root / "gqa" / VAL)
    questions[next(iter(predictions))]["groups"] = groups
    write(root / "gqa" / VAL, questions)
    with pytest.raises(FileFormatError, match="has the groups .* expected 'global'"):
        TASK.score(predictions, root, "val")
