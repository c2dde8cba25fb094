"""The VQA metric gives the official script's numbers, including its quirks."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from eval.errors import PredictionError
from eval.vqa import (
    answer_weights,
    normalise_answer,
    process_punctuation,
    score_vqa,
    vqa_accuracy,
)

VAL = "v2_OpenEnded_mscoco_val2014"
CASES = {
    "fakeA": (f"{VAL}_fakeA_results.json", "v2_mscoco_val2014_annotations.json"),
    "majority": (f"{VAL}_majority_results.json", "v2_mscoco_val2014_annotations.json"),
    "edge": ("edge_results.json", "edge_annotations.json"),
}


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / "vqa" / name).read_text(encoding="utf-8"))


def case(golden: Path, name: str) -> tuple[dict[int, str], list[dict[str, Any]]]:
    results, annotations = CASES[name]
    predictions = {each["question_id"]: each["answer"] for each in read(golden, results)}
    return predictions, read(golden, annotations)["annotations"]


def people(*answers: tuple[str, int]) -> list[dict[str, Any]]:
    texts = [text for text, count in answers for _ in range(count)]
    return [{"answer": text, "answer_id": n} for n, text in enumerate(texts, 1)]


@pytest.mark.parametrize("name", CASES)
def test_official_numbers_are_reproduced(golden: Path, name: str) -> None:
    predictions, annotations = case(golden, name)
    expected = read(golden, f"expected_{name}.json")
    scores = score_vqa(predictions, annotations)
    assert scores.accuracy == expected["accuracy"]["overall"]
    assert scores.per_question_type == expected["accuracy"]["perQuestionType"]
    assert scores.per_answer_type == expected["accuracy"]["perAnswerType"]
    assert {str(id_): each for id_, each in scores.per_question.items()} == expected["evalQA"]
    types = {each["question_id"]: each["question_type"] for each in annotations}
    for id_, each in scores.per_question.items():
        assert expected["evalQuesType"][types[id_]][str(id_)] == each


@pytest.mark.parametrize("name", CASES)
def test_official_numbers_to_twelve_decimals(golden: Path, name: str) -> None:
    predictions, annotations = case(golden, name)
    expected = read(golden, f"expected_{name}.json")["accuracy_n12"]
    scores = score_vqa(predictions, annotations, decimals=12)
    assert scores.accuracy == expected["overall"]
    assert scores.per_question_type == expected["perQuestionType"]
    assert scores.per_answer_type == expected["perAnswerType"]


def test_every_normalisation_of_the_official_code(golden: Path) -> None:
    for each in read(golden, "expected_normalisation.json"):
        assert process_punctuation(each["in"]) == each["processPunctuation"], each
        assert normalise_answer(each["in"]) == each["out"], each


def test_texts_are_normalised_as_in_python_2(golden: Path) -> None:
    for each in read(golden, "py2_py3_divergence.json"):
        assert normalise_answer(each["in"]) == each["out_py2_official"], each


def test_scoring_does_not_modify_its_input(golden: Path) -> None:
    """The official code modifies the annotations: its second run gives 51.40, not 54.40."""
    predictions, annotations = case(golden, "fakeA")
    before = copy.deepcopy(annotations)
    first, second = (score_vqa(predictions, annotations) for _ in range(2))
    assert first == second
    assert annotations == before


def test_order_of_questions_and_of_predictions_does_not_matter(golden: Path) -> None:
    predictions, annotations = case(golden, "fakeA")
    scores = score_vqa(predictions, annotations)
    shuffle = random.Random(0)
    shuffled = dict(shuffle.sample(list(predictions.items()), len(predictions)))
    again = score_vqa(shuffled, shuffle.sample(annotations, len(annotations)))
    assert again.accuracy == scores.accuracy
    assert again.per_question_type == scores.per_question_type
    assert again.per_question == scores.per_question


@pytest.mark.parametrize(
    ("agreeing", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)]
)
def test_three_agreeing_people_score_nine_tenths(agreeing: int, accuracy: float) -> None:
    answers = ["red"] * agreeing + ["blue"] * (10 - agreeing)
    assert vqa_accuracy("red", answers) == pytest.approx(accuracy, abs=1e-15)


@pytest.mark.parametrize(
    ("answer", "human", "accuracy"),
    [("yes", "Yes", 0), ("Yes", "Yes", 1), ("0", "none", 0), ("two", "two", 1), ("2", "two", 0)],
)
def test_unanimous_answers_are_not_normalised(answer: str, human: str, accuracy: float) -> None:
    assert vqa_accuracy(answer, [human] * 10) == accuracy
    assert vqa_accuracy(answer, [human] * 9 + ["something else"]) == 1


def test_whitespace_around_unanimous_answers_is_ignored() -> None:
    assert vqa_accuracy("yes\n", ["\tyes "] * 10) == 1


def test_equal_answer_objects_leave_each_other_out() -> None:
    unnumbered = [{"answer": "cat", "answer_confidence": "yes"}] * 10
    assert vqa_accuracy("cat", unnumbered) == 0
    distinct = [{"answer": "cat", "answer_confidence": str(n)} for n in range(10)]
    assert vqa_accuracy("cat", distinct) == 1
    equal_once_normalised = [{"answer": text} for text in ["Cat", "cat", "cat.", "dog"]]
    assert vqa_accuracy("cat", equal_once_normalised) == pytest.approx(1 / 4)


def test_answer_ids_need_not_be_numbers() -> None:
    humans = [{"answer": "cat", "answer_id": [n]} for n in range(10)]
    assert vqa_accuracy("cat", humans) == 1


def test_a_single_human_answer_scores_zero_and_none_is_an_error() -> None:
    assert vqa_accuracy("cat", ["cat"]) == 0
    with pytest.raises(ValueError, match="at least one"):
        vqa_accuracy("cat", [])


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("1,000 red-blue", "1000 redblue"),  # a comma between digits removes every mark
        ("1000 red-blue", "1000 red blue"),
        ("." * 33 + "x", ".x"),  # only 32 periods are removed
        (".5", ".5"),
        ("2.", "2"),
        ("somebody'd", "somebodyd"),  # swapped in the official table
        ("im", "im"),  # listed only with a capital
        ("dont", "don't"),
        ("the a an", ""),
        ("None", "0"),
        ("tens", "tens"),
    ],
)
def test_quirks_of_normalisation(text: str, normalised: str) -> None:
    assert normalise_answer(text) == normalised


def test_ties_round_away_from_zero_as_in_python_2() -> None:
    """17 correct of 32 give 53.125, which Python 3 rounds to 53.12."""
    annotations = [
        {
            "question_id": n,
            "question_type": "is",
            "answer_type": "yes/no",
            "answers": people(("yes" if n < 17 else "no", 10)),
        }
        for n in range(32)
    ]
    scores = score_vqa({n: "yes" for n in range(32)}, annotations)
    assert scores.accuracy == 53.13


def test_lenient_accuracy_normalises_unanimous_answers_too() -> None:
    annotation = {"question_type": "what", "answer_type": "other"}
    annotations = [
        {**annotation, "question_id": 1, "answers": people(("black", 10))},
        {**annotation, "question_id": 2, "answers": people(("black", 9), ("grey", 1))},
    ]
    scores = score_vqa({1: "Black.", 2: "Black."}, annotations)
    assert (scores.accuracy, scores.lenient_accuracy) == (50.0, 100.0)


def test_perfect_and_empty_predictions(golden: Path) -> None:
    _, annotations = case(golden, "fakeA")
    best = {}
    for each in annotations:
        weights = answer_weights(each["answers"])
        best[each["question_id"]] = max(weights, key=lambda pair: pair[1])[0]
    majority = read(golden, "expected_majority.json")["accuracy"]["overall"]
    assert score_vqa(best, annotations).accuracy >= majority
    nothing = {id_: "no such answer" for id_ in best}
    assert score_vqa(nothing, annotations).accuracy == 0


def test_a_weight_is_the_accuracy_of_predicting_that_answer(golden: Path) -> None:
    _, annotations = case(golden, "fakeA")
    for each in annotations:
        for answer, weight in answer_weights(each["answers"]):
            assert weight == vqa_accuracy(answer, each["answers"]) > 0


def test_weights_of_a_typical_question() -> None:
    answers = people(("umbrella", 3), ("an umbrella", 1), ("parasol", 3), ("stick", 2), ("Cane", 1))
    assert answer_weights(answers) == [
        ("umbrella", 1.0),
        ("parasol", pytest.approx(0.9)),
        ("stick", pytest.approx(0.6)),
        ("cane", pytest.approx(0.3)),
    ]


def test_missing_and_extra_predictions_are_counted(golden: Path) -> None:
    predictions, annotations = case(golden, "edge")
    del predictions[900000003]
    predictions[5] = "yes"
    with pytest.raises(PredictionError, match=r"1 has no prediction \(900000003\) and 1 pred"):
        score_vqa(predictions, annotations)


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no annotations"):
        score_vqa({}, [])
