"""The benchmark: official formats, answers that are right, and no way to answer without looking."""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from vl_lst.demo.questions import ANSWERS, questions_about
from vl_lst.demo.scenes import Purpose, sample_scene, scene_seed
from vl_lst.demo.world import SPLITS, ten_answers, vqa_split, write_world

SMALL = tuple(replace(split, images=6) for split in SPLITS)


@pytest.fixture(scope="module")
def documents() -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    made = {split.name: vqa_split(split) for split in SPLITS}
    return {name: (q["questions"], a["annotations"]) for name, (q, a) in made.items()}


def test_files_are_where_the_official_ones_are(tmp_path: Path) -> None:
    write_world(tmp_path, splits=SMALL)
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.json"))
    assert found == [
        "vqa/v2_OpenEnded_mscoco_train2014_questions.json",
        "vqa/v2_OpenEnded_mscoco_val2014_questions.json",
        "vqa/v2_mscoco_train2014_annotations.json",
        "vqa/v2_mscoco_val2014_annotations.json",
    ]
    pictures = sorted(p.name for p in (tmp_path / "images" / "train2014").iterdir())
    assert pictures[0] == "COCO_train2014_000000000001.jpg"
    assert len(pictures) == 6
    with Image.open(tmp_path / "images" / "train2014" / pictures[0]) as image:
        assert (image.format, image.size) == ("JPEG", (128, 128))


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_world(tmp_path / name, splits=SMALL)
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()]
    assert len(files) == 16
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_documents_have_what_the_official_evaluator_reads() -> None:
    questions, annotations = (json.loads(json.dumps(part)) for part in vqa_split(SMALL[0]))
    assert {"info", "task_type", "data_type", "data_subtype", "license"} <= questions.keys()
    ids = [question["question_id"] for question in questions["questions"]]
    assert ids == [annotation["question_id"] for annotation in annotations["annotations"]]
    assert len(set(ids)) == len(ids)
    for annotation in annotations["annotations"]:
        assert annotation["question_id"] // 1000 == annotation["image_id"]
        assert annotation["answer_type"] in ("yes/no", "number", "other")
        assert [a["answer_id"] for a in annotation["answers"]] == list(range(1, 11))
        assert {a["answer_confidence"] for a in annotation["answers"]} <= {"yes", "maybe", "no"}


def test_the_splits_share_no_image() -> None:
    train, val = SPLITS
    assert (train.purpose, val.purpose) == (Purpose.BENCHMARK_TRAIN, Purpose.BENCHMARK_VAL)
    assert train.first_image_id + train.images <= val.first_image_id


def test_most_people_agree_and_a_minority_of_questions_is_disputed() -> None:
    rng = Random(0)
    disputed = 0
    for answer in ANSWERS * 10:
        given = Counter(a["answer"] for a in ten_answers(answer, rng))
        assert given.most_common(1)[0][0] == answer
        assert given[answer] >= 6
        disputed += len(given) > 1
    assert 0.1 < disputed / (10 * len(ANSWERS)) < 0.3


def test_questions_have_one_answer_each() -> None:
    for number in range(200):
        scene = sample_scene(scene_seed(Purpose.BENCHMARK_VAL, number), counts=(1, 2, 3, 4))
        colours = {item.colour for item in scene.objects}
        for question in questions_about(scene, Random(number)):
            assert question.answer in ANSWERS
            assert question.text.endswith("?")
            if question.kind == "colour":
                assert question.answer in colours


def test_a_predictor_that_sees_only_questions_stays_far_below_one_that_looks(
    documents: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]],
) -> None:
    """Vision must be necessary: the most common answer to each question text scores at most 50."""
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


def test_yes_is_said_as_often_as_no(
    documents: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]],
) -> None:
    for _, annotations in documents.values():
        given = Counter(a["multiple_choice_answer"] for a in annotations)
        assert abs(given["yes"] - given["no"]) < 0.05 * (given["yes"] + given["no"])
