"""Error messages for predictions that do not match the examples."""

import numpy as np
import pytest

from eval.caption import score_captions
from eval.errors import PredictionError
from eval.gqa import score_gqa
from eval.nlvr2 import score_nlvr2
from eval.submissions import require_predictions, require_same_ids
from eval.vqa import score_vqa


@pytest.mark.parametrize("number", [1, np.int64(1)])
def test_ids_of_another_type_are_reported_as_such(number: object) -> None:
    with pytest.raises(PredictionError, match=r"the wrong type.*\(int.*expected '1' \(str\)"):
        require_same_ids(["1", "2"], {number: "yes", 2: "no"})
    with pytest.raises(PredictionError, match=r"found '1' \(str\), expected 1 \(int\)"):
        require_same_ids([1, 2], {"1": "yes", "2": "no"})


def test_other_examples_are_still_counted() -> None:
    with pytest.raises(
        PredictionError, match="1 has no prediction.*1 prediction belongs to another"
    ):
        require_same_ids(["1", "2"], {"1": "yes", "3": "no"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({1: "yes"}, r"must be strings: found 1 \(int\), expected '1'. Convert them with str"),
        ({None: "yes"}, "must be strings: found None"),
        ({"1": None}, r"answer to '1' is None \(NoneType\): expected a string"),
        ({"1": ["yes"]}, "expected a string"),
        ([{"id": "1", "answer": "yes"}], "predictions are a list: expected a dictionary"),
        (None, "predictions are a NoneType"),
    ],
)
def test_predictions_must_be_a_dictionary_of_strings(given: object, message: str) -> None:
    with pytest.raises(PredictionError, match=message) as caught:
        require_predictions(given)
    assert "\n" not in str(caught.value)


def test_predictions_are_returned_unchanged() -> None:
    predictions = {"1": "yes", "2": ""}
    assert require_predictions(predictions) is predictions


@pytest.mark.parametrize("given", ["ID-07 ", "id-7", "Id-07.jpg"])
def test_similar_ids_are_reported(given: str) -> None:
    with pytest.raises(PredictionError, match="1 ID differs only in case, spaces, leading zeros"):
        require_same_ids(["id-07", "b"], {given: "yes", "b": "no"})
    with pytest.raises(PredictionError) as caught:
        require_same_ids(["id-07", "b"], {"id-8": "yes", "b": "no"})
    assert "differ only" not in str(caught.value)


@pytest.mark.parametrize("given", [None, [("a", "b")], {"test-1-0-0": None}])
def test_each_evaluator_requires_a_dictionary_of_strings(given: object) -> None:
    labels = {"test-1-0-0": "True"}
    calls = [
        lambda: score_nlvr2(given, labels),
        lambda: score_gqa(given, []),
        lambda: score_captions(given, {"test-1-0-0": ["a cat"]}),
        lambda: score_vqa(given, []),
    ]
    for call in calls:
        with pytest.raises(PredictionError, match="expected a (dictionary|string)"):
            call()


def test_long_ids_are_shortened_in_messages() -> None:
    with pytest.raises(PredictionError) as raised:
        require_same_ids(["1" * 4000], {"2" * 4000: "yes"})
    assert len(str(raised.value)) < 400
