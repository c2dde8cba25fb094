"""NLVR2 of the shapes world: official rows, true labels, not answerable without the images."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from typing import Any

import pytest

from eval.nlvr2 import score_nlvr2
from vl_lst.demo.nlvr2 import statements_split, write_nlvr2
from vl_lst.demo.scenes import Scene, SceneObject
from vl_lst.demo.splits import PAIR_SPLITS, PAIRS_PER_SET
from vl_lst.demo.statements import statements_about

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return {split.name: statements_split(split) for split in PAIR_SPLITS}


def _scene(*objects: tuple[str, str]) -> Scene:
    items = tuple(
        SceneObject(shape, colour, "small", (0, 0, 0), 0.5, 0.5, 0.1, 1.0, 0.0)
        for colour, shape in objects
    )
    return Scene(0, items, ((255, 255, 255), (255, 255, 255)))


def test_labels_match_the_scenes() -> None:
    left, right = _scene(("red", "star")), _scene(("red", "star"), ("blue", "cross"))
    judged = {
        statement.text: statement.holds(left, right)
        for seed in range(40)
        for statement in statements_about(["blue", "red"], Random(seed))
    }
    true = {
        "The left image contains a red shape.",
        "The right image shows a blue shape.",
        "There is no blue shape in the left image.",
        "Both images contain a red shape.",
        "At least one of the images contains a blue shape.",
        "Exactly one of the images contains a blue shape.",
        "The right image shows a blue shape and the left image does not.",
        "There are exactly two shapes in the right image.",
        "The left image contains exactly one shape.",
        "The right image contains more shapes than the left image.",
        "There are exactly three shapes in the two images together.",
    }
    false = {
        "The left image contains a blue shape.",
        "No red shape is present in the right image.",
        "Each image contains a blue shape.",
        "Neither of the images contains a red shape.",
        "There is no blue shape in either image.",
        "One image contains a red shape and the other does not.",
        "The left image shows a red shape and the right image does not.",
        "The left image contains exactly two shapes.",
        "There are more shapes in the left image than in the right image.",
        "Both images contain the same number of shapes.",
        "There are as many shapes in the left image as in the right image.",
    }
    assert {text: judged.get(text) for text in true | false} == {
        **dict.fromkeys(true, True),
        **dict.fromkeys(false, False),
    }


def test_rows_have_the_official_fields(rows: Rows) -> None:
    shared = {
        *("validation", "sentence", "left_url", "writer", "label", "right_url", "synset"),
        *("query", "identifier"),
    }
    assert all(row.keys() == shared | {"directory"} for row in rows["train"])
    assert all(row.keys() == shared | {"extra_validations"} for row in rows["dev"])
    for split in PAIR_SPLITS:
        most = split.sets * split.sentences_per_set * PAIRS_PER_SET
        assert most * 0.7 < len(rows[split.name]) <= most
    row = rows["dev"][1]
    assert row["identifier"] == "dev-0-1-0"
    assert row["left_url"] == "https://example.com/dev-0-1-img0.png"


def test_a_sentence_is_true_for_half_of_its_pairs(rows: Rows) -> None:
    """A blind model has 50 % accuracy and a consistency of zero."""
    for name, lines in rows.items():
        labels: dict[str, Counter[str]] = defaultdict(Counter)
        for row in lines:
            _, set_number, _, sentence = row["identifier"].split("-")
            labels[f"{set_number} {sentence} {row['sentence']}"][row["label"]] += 1
        assert set(map(frozenset, (each.items() for each in labels.values()))) == {
            frozenset({("True", 2), ("False", 2)})
        }, name
    truth = {row["identifier"]: row["label"] for row in rows["dev"]}
    blind = score_nlvr2(dict.fromkeys(truth, "true"), truth)
    assert (blind.accuracy, blind.consistency) == (0.5, 0.0)


def test_pictures_alone_say_something_about_the_label(rows: Rows) -> None:
    """Without a signal in the pictures alone, a model takes most of the demo to learn any."""
    scenes = {split.name: split for split in PAIR_SPLITS}
    right = 0
    for row in rows["train"]:
        _, set_number, pair, _ = row["identifier"].split("-")
        shown = scenes["train"].pairs(int(set_number))[int(pair)]
        is_red = any(item.colour == "red" for scene in shown for item in scene.objects)
        right += str(is_red) == row["label"]
    assert 0.6 < right / len(rows["train"]) < 0.75


def test_subsets_split_pairs_by_their_share_of_true_statements(tmp_path: Path, rows: Rows) -> None:
    write_nlvr2(tmp_path, PAIR_SPLITS[1])
    parts = {}
    for subset in ("balanced", "unbalanced"):
        path = tmp_path / "nlvr2" / subset / f"{subset}_dev.json"
        parts[subset] = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert all(parts.values())
    assert sum(map(len, parts.values())) == len(rows["dev"])
    labels = Counter(row["label"] for row in parts["balanced"])
    assert labels["True"] == labels["False"]
