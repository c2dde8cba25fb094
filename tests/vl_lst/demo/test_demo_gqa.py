"""GQA of the shapes world: official fields, sound entailment, not answerable without the image."""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from eval.gqa import reasoning_steps
from vl_lst.demo.gqa.writer import GqaDocuments, gqa_split
from vl_lst.demo.splits import SPLITS

STRUCTURAL = {"verify", "query", "choose", "logical", "compare"}
SEMANTIC = {"obj", "attr", "cat", "rel", "global"}
LONGEST = 16


@pytest.fixture(scope="module")
def train() -> GqaDocuments:
    return gqa_split(replace(SPLITS[0], images=500))


@pytest.fixture(scope="module")
def val() -> GqaDocuments:
    return gqa_split(SPLITS[1])


def test_questions_have_the_official_fields(val: GqaDocuments) -> None:
    for id_, question in val.all.items():
        assert question.keys() == {
            *("semantic", "entailed", "equivalent", "question", "imageId", "isBalanced"),
            *("groups", "answer", "semanticStr", "annotations", "types", "fullAnswer"),
        }
        assert question["types"].keys() == {"detailed", "semantic", "structural"}
        assert question["annotations"].keys() == {"answer", "question", "fullAnswer"}
        assert question["question"].endswith("?")
        assert len(question["question"].split()) <= LONGEST
        assert len(id_) == 8
        assert id_ in question["equivalent"]
        assert reasoning_steps(question["semantic"]) >= 1
        for number, step in enumerate(question["semantic"]):
            assert all(at < number for at in step["dependencies"])
    assert {question["types"]["structural"] for question in val.all.values()} == STRUCTURAL
    assert {question["types"]["semantic"] for question in val.all.values()} == SEMANTIC
    assert any(id_.startswith("0") for id_ in val.balanced)


def test_only_open_questions_belong_to_a_global_group(val: GqaDocuments) -> None:
    for question in val.all.values():
        is_open = question["types"]["structural"] == "query"
        assert (question["groups"]["global"] is not None) == is_open


def test_ids_are_unique_across_splits(train: GqaDocuments, val: GqaDocuments) -> None:
    assert not train.all.keys() & val.all.keys()


def test_balanced_questions_are_a_subset_of_all_questions(val: GqaDocuments) -> None:
    assert val.balanced == {id_: each for id_, each in val.all.items() if each["isBalanced"]}
    assert len(val.balanced) < len(val.all)
    assert max(Counter(each["imageId"] for each in val.balanced.values()).values()) == 6


def test_annotated_spans_name_their_object(val: GqaDocuments) -> None:
    found = 0
    for question in val.all.values():
        words = question["question"].lower().rstrip("?").replace(",", "").split()
        for span, object_id in question["annotations"]["question"].items():
            first, _, end = span.partition(":")
            noun = words[int(first) : int(end or int(first) + 1)]
            assert noun[-1] == "shape" or len(noun) == 1
            assert f"({object_id})" in question["semanticStr"]
            found += 1
    assert found > 1000


def test_entailment_is_consistent(train: GqaDocuments) -> None:
    """One answer to one question never entails different answers to another."""
    implied: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for question in train.all.values():
        for other in (train.all[each] for each in question["entailed"]):
            assert other["imageId"] == question["imageId"]
            implied[question["question"], question["answer"], other["question"]].add(
                other["answer"]
            )
    assert len(implied) > 2000
    assert all(len(answers) == 1 for answers in implied.values())


def test_most_balanced_questions_entail_others(val: GqaDocuments) -> None:
    """Some entailed questions are only in the file of all questions."""
    entailing = [
        [other for other in question["entailed"] if other != id_]
        for id_, question in val.balanced.items()
    ]
    assert sum(map(bool, entailing)) > 0.6 * len(entailing)
    assert any(other not in val.balanced for others in entailing for other in others)


def test_choices_contain_the_answer(val: GqaDocuments) -> None:
    assert val.choices.keys() == val.all.keys()
    for id_, choice in val.choices.items():
        assert val.all[id_]["answer"] in choice["plausible"]
        assert set(choice["plausible"]) <= set(choice["valid"])


def test_a_blind_predictor_scores_low(train: GqaDocuments, val: GqaDocuments) -> None:
    """Vision is necessary: the most common answer to each question text scores at most 50."""
    texts: dict[str, Counter[str]] = defaultdict(Counter)
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for question in train.balanced.values():
        texts[question["question"]][question["answer"]] += 1
        kinds[question["types"]["detailed"]][question["answer"]] += 1
    hits = []
    for question in val.balanced.values():
        seen = texts.get(question["question"]) or kinds[question["types"]["detailed"]]
        hits.append(seen.most_common(1)[0][0] == question["answer"])
    assert sum(hits) / len(hits) < 0.5


def test_yes_is_as_frequent_as_no(val: GqaDocuments) -> None:
    given = Counter(question["answer"] for question in val.balanced.values())
    assert abs(given["yes"] - given["no"]) < 0.08 * (given["yes"] + given["no"])
