"""VQA's accuracy with numbers of people other than ten."""

import itertools

import pytest

from eval.agreement import agreement, agreement_weights
from eval.vqa import vqa_accuracy


@pytest.mark.parametrize("yes", range(11))
def test_ten_answers_follow_the_official_rule(yes: int) -> None:
    people = ["yes"] * yes + ["no"] * (10 - yes)
    assert agreement("yes", people) == vqa_accuracy("yes", people)
    assert dict(agreement_weights(people)).get("yes", 0.0) == pytest.approx(
        vqa_accuracy("yes", people)
    )


@pytest.mark.parametrize("count", [1, 2, 3, 9, 20])
def test_unanimous_answers_are_correct_for_any_number_of_people(count: int) -> None:
    assert agreement("A red cup.", ["red cup"] * count) == pytest.approx(1)
    assert agreement("blue", ["red cup"] * count) == 0


@pytest.mark.parametrize("yes", range(1, 10))
def test_other_numbers_of_people_extend_the_official_rule(yes: int) -> None:
    """Twenty people with the same shares give the same accuracy as ten."""
    ten = ["yes"] * yes + ["no"] * (10 - yes)
    assert agreement("yes", ten * 2) == pytest.approx(agreement("yes", ten))


def test_accuracy_increases_with_agreement() -> None:
    scores = [agreement("yes", ["yes"] * k + ["no"] * (7 - k)) for k in range(8)]
    assert all(a <= b for a, b in itertools.pairwise(scores))


def test_an_answer_that_is_an_article_is_kept() -> None:
    assert agreement("a", ["A"]) == 1
    assert agreement("b", ["A"]) == 0
