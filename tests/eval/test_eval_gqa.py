"""GQA's metrics equal the official script's; metrics that the files do not allow are `None`."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from eval.errors import FileFormatError, PredictionError
from eval.gqa import GqaScores, reasoning_steps, score_gqa

PLAIN = ("accuracy", "binary", "open", "validity", "plausibility", "distribution")
PER_TYPE = {
    "accuracyPerStructuralType": "accuracy_per_structural_type",
    "accuracyPerSemanticType": "accuracy_per_semantic_type",
    "accuracyPerLength": "accuracy_per_length",
    "accuracyPerSteps": "accuracy_per_steps",
}


def read(golden: Path, name: str) -> Any:
    return json.loads((golden / "gqa" / name).read_text(encoding="utf-8"))


def case(golden: Path, name: str) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
    """Return predictions, questions and scores of an official run."""
    expected = read(golden, f"expected_{name}.json")
    given = dict(zip(expected["argv"][::2], expected["argv"][1::2], strict=False))
    predictions = read(golden, given["--predictions"])
    return (
        {each["questionId"]: each["prediction"] for each in predictions},
        read(golden, given["--questions"]),
        expected["scores"],
    )


def question(answer: str = "yes", **fields: Any) -> dict[str, Any]:
    kinds = {"structural": "verify", "semantic": "attr", "detailed": "verifyAttr"}
    return {
        "answer": answer,
        "question": "Is it red?",
        "isBalanced": fields.get("balanced", True),
        "types": kinds | fields.get("types", {}),
        "groups": {"global": fields.get("group")},
        "entailed": fields.get("entailed", []),
        "semantic": [{"operation": "select", "argument": "kettle (1)"}],
    }


def score(predictions: Mapping[str, str], questions: dict[str, Any], **more: Any) -> GqaScores:
    return score_gqa(predictions, questions.items(), **more)


@pytest.mark.parametrize("name", ["val", "valstrong", "balancedonly", "balancedfile"])
def test_official_numbers_are_reproduced(golden: Path, name: str) -> None:
    predictions, questions, expected = case(golden, name)
    choices = read(golden, "val_choices.json")
    scores = score(predictions, questions, choices=choices.items())
    assert {metric: getattr(scores, metric) for metric in PLAIN} == {
        metric: expected[metric] for metric in PLAIN
    }
    for official, ours in PER_TYPE.items():
        found = {str(kind): asdict(each) for kind, each in getattr(scores, ours).items()}
        assert found == expected[official]
    assert set(scores.per_question) == set(predictions)


@pytest.mark.parametrize("name", ["val", "valstrong"])
def test_official_consistency_is_reproduced(golden: Path, name: str) -> None:
    predictions, questions, expected = case(golden, name)
    assert score(predictions, questions).consistency == expected["consistency"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("balancedfile", r"37 of the 193 .* not in the questions file .*\*_all_questions"),
        ("balancedonly", "37 of the 193 .* have no prediction .* predict all questions"),
    ],
)
def test_consistency_is_none_if_the_files_do_not_allow_it(
    golden: Path, name: str, reason: str
) -> None:
    predictions, questions, _ = case(golden, name)
    scores = score(predictions, questions)
    assert scores.consistency is None
    assert re.search(reason, scores.reasons["consistency"])


def test_without_choices_validity_and_plausibility_are_none(golden: Path) -> None:
    predictions, questions, _ = case(golden, "val")
    scores = score(predictions, questions)
    assert (scores.validity, scores.plausibility) == (None, None)
    assert set(scores.reasons) == {"validity", "plausibility"}
    assert "choices" in scores.reasons["validity"]


def test_metrics_without_questions_are_none_or_officially_zero() -> None:
    scores = score({"01": "yes"}, {"01": question()})
    assert (scores.accuracy, scores.binary) == (100.0, 100.0)
    assert set(scores.reasons) == {
        "open",
        "validity",
        "plausibility",
        "consistency",
        "distribution",
    }
    assert all(getattr(scores, name) is None for name in scores.reasons)
    strict = score({"01": "yes"}, {"01": question()}, strict_official=True)
    assert (strict.open, strict.validity, strict.plausibility, strict.consistency) == (0, 0, 0, 0)
    assert strict.distribution is None


@pytest.mark.parametrize("answer", ["Yes", "yes ", "yes.", "a yes", ""])
def test_answers_must_match_exactly(answer: str) -> None:
    assert score({"01": answer}, {"01": question()}).accuracy == 0.0


def test_consistency_is_zero_without_correct_answers() -> None:
    questions = {"01": question(entailed=["02"]), "02": question(balanced=False)}
    assert score({"01": "no", "02": "yes"}, questions).consistency == 0.0
    assert score({"01": "yes", "02": "yes"}, questions).consistency == 100.0


def test_common_questions_have_their_own_choices() -> None:
    questions = {"01": question("shape", types={"detailed": "twoCommon"})}
    choices = {"01": {"valid": ["wood"], "plausible": ["wood"]}}
    scores = [
        score({"01": answer}, questions, choices=choices.items()) for answer in ("color", "wood")
    ]
    assert [(each.validity, each.plausibility) for each in scores] == [(100, 100), (0, 0)]


def test_the_distribution_ignores_predictions_outside_the_gold_answers() -> None:
    questions = {
        f"0{n}": question(answer, group="color") for n, answer in enumerate(["red"] * 3 + ["blue"])
    }
    predictions = {"00": "red", "01": "green", "02": "red", "03": "red"}
    assert score(predictions, questions).distribution == (0 / 3 + 1 / 1) / 100


@pytest.mark.parametrize(
    ("operation", "argument", "steps"),
    [("exist", "?", 0), ("query", "name", 0), ("query", "color", 1), ("choose name", "a|b", 0)],
)
def test_closing_operations_are_not_steps(operation: str, argument: str, steps: int) -> None:
    assert reasoning_steps([{"operation": operation, "argument": argument}]) == steps


def test_missing_and_extra_predictions_are_counted(golden: Path) -> None:
    predictions, questions, _ = case(golden, "val")
    gone = next(iter(predictions))
    del predictions[gone]
    predictions["7"] = "yes"
    with pytest.raises(PredictionError, match=rf"1 has no prediction \({gone}\) and 1 pred"):
        score(predictions, questions)


def test_some_but_not_all_unbalanced_predictions_are_an_error_unless_strict(golden: Path) -> None:
    predictions, questions, expected = case(golden, "val")
    unbalanced = [id_ for id_, each in questions.items() if not each["isBalanced"]]
    del predictions[unbalanced[0]]
    with pytest.raises(PredictionError, match="1 has no prediction"):
        score(predictions, questions)
    strict = score({**predictions, "7": "yes"}, questions, strict_official=True)
    assert strict.accuracy == expected["accuracy"]


def test_a_missing_balanced_prediction_is_an_error_even_if_counts_match() -> None:
    questions = {"1": question(), "2": question(), "3": question(balanced=False)}
    for strict_official in (True, False):
        with pytest.raises(PredictionError, match=r"1 has no prediction \(2\)"):
            score({"1": "yes", "3": "yes"}, questions, strict_official=strict_official)


def test_ids_converted_to_integers_are_recognised() -> None:
    with pytest.raises(PredictionError, match=r"1 question .* \(0042\), as if IDs were converted"):
        score({"42": "yes"}, {"0042": question()})


def test_ids_that_differ_only_in_zeros_are_different_questions() -> None:
    questions = {"042": question(), "0042": question(balanced=False)}
    assert score({"042": "yes"}, questions).accuracy == 100.0


def test_questions_without_choices_are_counted() -> None:
    with pytest.raises(FileFormatError, match=r"1 balanced question has no entry .*\(01\)"):
        score({"01": "yes"}, {"01": question()}, choices=[])


def test_a_file_without_balanced_questions_is_an_error() -> None:
    with pytest.raises(FileFormatError, match="none of the 1 questions is balanced"):
        score({"01": "yes"}, {"01": question(balanced=False)})


def test_order_of_predictions_does_not_matter(golden: Path) -> None:
    predictions, questions, _ = case(golden, "val")
    assert score(dict(reversed(predictions.items())), questions) == score(predictions, questions)
