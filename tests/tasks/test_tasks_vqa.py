"""VQA: official files, examples, scores and error messages."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.errors import FileFormatError, InputError
from tasks.vqa import TASK

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "vqa"
QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
ANNOTATIONS = "v2_mscoco_val2014_annotations.json"


def edit(file: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(file.read_text(encoding="utf-8"))
    change(document)
    file.write_text(json.dumps(document), encoding="utf-8")


def test_an_example_has_prompt_image_and_weighted_answers() -> None:
    example = TASK.load(FIXTURE, "val2014")[0]
    assert example.id == "42000"
    assert example.image_ids == ("COCO_val2014_000000000042",)
    assert example.prompt == "vqa: What is the woman holding?"
    assert example.targets == (
        ("umbrella", 1.0),
        ("parasol", pytest.approx(0.6)),
        ("stick", pytest.approx(0.3)),
    )


def test_targets_are_normalised_only_if_the_metric_normalises() -> None:
    examples = TASK.load(FIXTURE, "val2014")
    assert examples[2].targets == (("2", 1.0), ("3", pytest.approx(0.9)))
    assert examples[4].targets == (("four", 1.0),)


def test_test_dev_questions_have_test_images_and_no_targets() -> None:
    examples = TASK.load(FIXTURE, "test-dev2015")
    assert examples.image_ids() == ["COCO_test2015_000000000016"]
    assert [examples[n].targets for n in range(len(examples))] == [(), ()]
    with pytest.raises(InputError, match="not public"):
        TASK.score({"16000": "here", "16001": "yes"}, FIXTURE, "test-dev2015")


@pytest.mark.parametrize(("split", "ids"), [("karpathy_test", 2), ("minival", 3)])
def test_derived_splits_are_scored_with_official_answers(split: str, ids: int) -> None:
    derived = TASK.load(FIXTURE, split)
    official = TASK.load(FIXTURE, "val2014")
    of_id = {official[n].id: official[n] for n in range(len(official))}
    assert len(derived) == ids
    assert [derived[n] for n in range(ids)] == [of_id[id_] for id_ in derived.ids()]
    predictions = {id_: of_id[id_].targets[0][0] for id_ in derived.ids()}
    score = TASK.score(predictions, FIXTURE, split)
    assert score.metrics["accuracy"] == 100.0
    assert list(score.per_example) == derived.ids()


def test_a_karpathy_file_with_answers_needs_no_annotations(root: Path) -> None:
    (root / "vqa" / ANNOTATIONS).unlink()
    assert len(TASK.load(root, "karpathy_test")) == 2
    with pytest.raises(InputError, match=ANNOTATIONS):
        TASK.load(root, "minival")


def test_karpathy_answers_may_be_strings(root: Path) -> None:
    def plain(items: list[dict[str, Any]]) -> None:
        for item in items:
            item["answers"] = [answer["answer"] for answer in item["answers"]]

    before = TASK.load(root, "karpathy_test")
    edit(root / "vqa" / "karpathy_test.json", plain)
    after = TASK.load(root, "karpathy_test")
    assert [after[n] for n in range(2)] == [before[n] for n in range(2)]


def test_derived_questions_without_official_answers_are_counted(root: Path) -> None:
    edit(root / "vqa" / "minival.json", lambda items: items[0].update(question_id=31))
    with pytest.raises(FileFormatError, match=r"1 question without answers \(31\) in"):
        TASK.load(root, "minival")


def test_scores_have_official_names_and_scale() -> None:
    predictions = dict.fromkeys(TASK.load(FIXTURE, "val2014").ids(), "yes")
    score = TASK.score(predictions, FIXTURE, "val2014")
    assert score.protocol == "vqa_v2 official"
    assert score.metrics["accuracy"] == 31.67
    assert score.metrics["per_answer_type"] == {"other": 0.0, "yes/no": 95.0, "number": 0.0}
    assert score.per_example["42001"] == 90.0


def test_scoring_does_not_need_the_questions_file(root: Path) -> None:
    (root / "vqa" / QUESTIONS).unlink()
    predictions = {id_: "no" for id_ in TASK.load(FIXTURE, "val2014").ids()}
    assert TASK.score(predictions, root, "val2014").metrics["accuracy"] == pytest.approx(26.67)


def test_a_questions_file_needs_only_the_questions(root: Path) -> None:
    edit(root / "vqa" / QUESTIONS, lambda document: [document.pop("info"), document.pop("license")])
    assert len(TASK.load(root, "val2014")) == 6


def first(name: str, value: object) -> Callable[[Any], object]:
    """Set a field of the first question or annotation."""

    def change(document: Any) -> None:
        rows = document.get("questions") or document["annotations"]
        if value is None:
            del rows[0][name]
        else:
            rows[0][name] = value

    return change


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            QUESTIONS,
            first("question_id", "42000"),
            r"questions\[0\] has question_id '42000', a string",
        ),
        (QUESTIONS, first("question_id", True), r"questions\[0\] has question_id True"),
        (QUESTIONS, first("question", None), r"questions\[0\] has no 'question'"),
        (QUESTIONS, first("image_id", 4.5), r"questions\[0\] has image_id 4.5"),
        (QUESTIONS, first("question_id", 42001), r"1 value of question_id occurs more.*\(42001\)"),
        (
            QUESTIONS,
            lambda document: document["questions"].pop(0),
            r"0 questions.*1 ann.*\(42000\)",
        ),
        (QUESTIONS, lambda document: document.pop("questions"), "has no 'questions'"),
        (QUESTIONS, lambda document: document.update(questions={}), "questions is an object"),
        (QUESTIONS, lambda document: document["questions"].append(7), r"\[6\] is an integer"),
        (QUESTIONS, first("question", "\ud83d"), "not valid Unicode"),
        (ANNOTATIONS, lambda document: document["annotations"].pop(0), r"1 question.*\(42000\)"),
        (ANNOTATIONS, first("question_id", 42001), r"1 value of question_id occurs more"),
        (
            ANNOTATIONS,
            first("answers", []),
            r"annotations\[0\] \(question 42000\) has answers \[\]",
        ),
        (ANNOTATIONS, first("answers", [{"answer": 3}]), r"annotations\[0\] \(question 42000\)"),
        (ANNOTATIONS, first("answer_type", None), r"annotations\[0\] has no 'answer_type'"),
    ],
)
def test_malformed_files_are_explained(
    root: Path, cache: Path, file: str, change: Callable[[Any], object], message: str
) -> None:
    edit(root / "vqa" / file, change)
    with pytest.raises(FileFormatError, match=message):
        TASK.load(root, "val2014")
    assert list(cache.iterdir()) == []


def test_a_truncated_file_is_reported(root: Path) -> None:
    file = root / "vqa" / ANNOTATIONS
    file.write_text(file.read_text(encoding="utf-8")[:1000], encoding="utf-8")
    with pytest.raises(
        FileFormatError, match=rf"{ANNOTATIONS}: not valid JSON at line \d+, column"
    ):
        TASK.load(root, "val2014")


def test_a_deeply_nested_file_is_refused(root: Path) -> None:
    (root / "vqa" / ANNOTATIONS).write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(FileFormatError, match="nested too deeply"):
        TASK.load(root, "val2014")


def test_easy_vqa_loads(shared_data: Path) -> None:
    examples = TASK.load(shared_data / "data" / "easyvqa", "val2014")
    assert len(examples) == 2911
    assert len(examples.image_ids()) == 300
    assert all(len(examples[n].targets) == 1 for n in range(len(examples)))


@pytest.mark.parametrize("split", [["val2014"], 5, None, b"val2014"])
def test_a_split_must_be_a_string(split: Any) -> None:
    with pytest.raises(InputError, match="split is .*: expected the name of a split"):
        TASK.load(FIXTURE, split)
