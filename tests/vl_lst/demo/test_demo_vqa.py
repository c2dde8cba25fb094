"""VQA of the shapes world: official documents, correct answers, not answerable without images."""

import hashlib
import json
from collections import Counter, defaultdict
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from vl_lst.demo.questions import ANSWERS
from vl_lst.demo.splits import SPLITS
from vl_lst.demo.vqa import ten_answers, vqa_split

Documents = dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def documents() -> Documents:
    made = {split.name: vqa_split(split) for split in SPLITS}
    return {name: (q["questions"], a["annotations"]) for name, (q, a) in made.items()}


def test_the_documents_never_change() -> None:
    """Scores of different versions are comparable only on the same questions."""
    text = json.dumps([vqa_split(replace(split, images=50)) for split in SPLITS])
    assert (
        hashlib.sha256(text.encode()).hexdigest()
        == "69e38dfe26feb84d93a2867b0383007bc6c34245ef93d2ee7e895820102bd3de"
    )


def test_documents_have_what_the_official_evaluator_reads() -> None:
    small = replace(SPLITS[0], images=6)
    questions, annotations = (json.loads(json.dumps(part)) for part in vqa_split(small))
    assert {"info", "task_type", "data_type", "data_subtype", "license"} <= questions.keys()
    ids = [question["question_id"] for question in questions["questions"]]
    assert ids == [annotation["question_id"] for annotation in annotations["annotations"]]
    assert len(set(ids)) == len(ids)
    for annotation in annotations["annotations"]:
        assert annotation["question_id"] // 1000 == annotation["image_id"]
        assert annotation["answer_type"] in ("yes/no", "number", "other")
        assert [a["answer_id"] for a in annotation["answers"]] == list(range(1, 11))
        assert {a["answer_confidence"] for a in annotation["answers"]} <= {"yes", "maybe", "no"}


def test_most_annotators_agree_and_a_minority_of_questions_is_disputed() -> None:
    rng = Random(0)
    disputed = 0
    for answer in ANSWERS * 10:
        given = Counter(a["answer"] for a in ten_answers(answer, rng))
        assert given.most_common(1)[0][0] == answer
        assert given[answer] >= 6
        disputed += len(given) > 1
    assert 0.1 < disputed / (10 * len(ANSWERS)) < 0.3


def test_a_blind_predictor_scores_low(
    documents: Documents,
) -> None:
    """Vision is necessary: the most common answer to each question text scores at most 50."""
    texts: dict[str, Counter[str]] = defaultdict(Counter)
    beginnings: dict[str, Counter[str]] = defaultdict(Counter)
    for question, annotation in zip(*documents["train2014"], strict=True):
        answer = annotation["multiple_choice_answer"]
        texts[question["question"]][answer] += 1
        beginnings[question["question"].split()[0]][answer] += 1
    hits = []
    for question, annotation in zip(*documents["val2014"], strict=True):
        text = question["question"]
        seen = texts.get(text) or beginnings[text.split()[0]]
        hits.append(seen.most_common(1)[0][0] == annotation["multiple_choice_answer"])
    assert sum(hits) / len(hits) < 0.5


def test_yes_is_as_frequent_as_no(documents: Documents) -> None:
    for _, annotations in documents.values():
        given = Counter(a["multiple_choice_answer"] for a in annotations)
        assert abs(given["yes"] - given["no"]) < 0.05 * (given["yes"] + given["no"])
