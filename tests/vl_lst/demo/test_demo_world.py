"""The shapes world on disk: official paths, deterministic bytes, readable by every task."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from feature_extraction.images.finding import find_images
from tasks import get_task
from vl_lst.demo.scenes import Purpose
from vl_lst.demo.splits import PAIR_SPLITS, SPLITS, picture_path
from vl_lst.demo.world import write_world

pytestmark = pytest.mark.usefixtures("cache")

SMALL = tuple(replace(split, images=6) for split in SPLITS)
SMALL_PAIRS = tuple(replace(split, sets=4) for split in PAIR_SPLITS)
PICTURES = 2 * 6 + 2 * 4 * 8
SPLITS_OF_TASK = {
    "vqa": ("train2014", "val2014"),
    "gqa": ("train", "val", "train_all", "val_all"),
    "nlvr2": ("train", "dev"),
    "caption": ("train2014", "val2014"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, splits=SMALL, pair_splits=SMALL_PAIRS)
    return folder


def test_files_are_where_the_official_ones_are(root: Path) -> None:
    found = sorted(str(p.relative_to(root)) for p in root.rglob("*.json"))
    assert found == [
        "coco/annotations/captions_train2014.json",
        "coco/annotations/captions_val2014.json",
        "gqa/train_all_questions.json",
        "gqa/train_balanced_questions.json",
        "gqa/val_all_questions.json",
        "gqa/val_balanced_questions.json",
        "gqa/val_choices.json",
        "nlvr2/balanced/balanced_dev.json",
        "nlvr2/dev.json",
        "nlvr2/train.json",
        "nlvr2/unbalanced/unbalanced_dev.json",
        "vqa/v2_OpenEnded_mscoco_train2014_questions.json",
        "vqa/v2_OpenEnded_mscoco_val2014_questions.json",
        "vqa/v2_mscoco_train2014_annotations.json",
        "vqa/v2_mscoco_val2014_annotations.json",
    ]


def test_pictures_match_their_names(root: Path) -> None:
    for name, format_ in (
        ("train2014/COCO_train2014_000000000001.jpg", "JPEG"),
        ("val2014/COCO_val2014_000000100001.jpg", "JPEG"),
        ("nlvr2/train/0/train-1-3-img1.png", "PNG"),
        ("nlvr2/dev/dev-0-0-img0.png", "PNG"),
    ):
        with Image.open(root / "images" / name) as image:
            assert (image.format, image.size) == (format_, (128, 128))
    assert len(find_images(root / "images")) == PICTURES


def test_writing_twice_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    write_world(tmp_path, splits=SMALL, pair_splits=SMALL_PAIRS)
    files = [p.relative_to(root) for p in root.rglob("*") if p.is_file()]
    assert len(files) == PICTURES + 15
    for file in files:
        assert (root / file).read_bytes() == (tmp_path / file).read_bytes()


def test_the_splits_share_no_image() -> None:
    purposes = [split.purpose for split in (*SPLITS, *PAIR_SPLITS)]
    assert len(set(purposes)) == len(purposes)
    assert all(purpose.name.startswith("BENCHMARK") for purpose in purposes)
    assert [purpose for purpose in Purpose if purpose.name.startswith("BENCHMARK")] == purposes
    train, val = SPLITS
    assert train.first_image_id + train.images <= val.first_image_id


def test_every_task_reads_its_files_and_the_pictures_exist(root: Path) -> None:
    for name, splits in SPLITS_OF_TASK.items():
        for split in splits:
            examples = get_task(name).load(root, split)
            assert len(examples) > 0
            for image_id in examples.image_ids():
                assert picture_path(root, image_id).is_file()


def test_an_unknown_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="no picture 'COCO_test2015_1'"):
        picture_path(Path(), "COCO_test2015_1")


def test_correct_answers_score_the_maximum(root: Path) -> None:
    for name, split, best in (
        ("vqa", "val2014", 100),
        ("gqa", "val_all", 100),
        ("nlvr2", "dev", 1),
    ):
        task = get_task(name)
        right = {
            example.id: max(example.targets, key=lambda target: target[1])[0]
            for example in task.load(root, split)
        }
        score = task.score(right, root, split)
        assert score.metrics[task.primary_metric] == best
        # No metric is missing.
        assert not set(score.reasons) - {"grounding"}
        if "consistency" in score.metrics:
            assert score.metrics["consistency"] == best


def test_progress_counts_all_pictures(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    write_world(
        tmp_path,
        splits=tuple(replace(split, images=1) for split in SPLITS),
        pair_splits=tuple(replace(split, sets=1) for split in PAIR_SPLITS),
        report=lambda *state: seen.append(state),
    )
    assert [done for done, _, _ in seen] == list(range(1, 19))
    assert {total for _, total, _ in seen} == {18}
    assert seen[-1][2] == "nlvr2 dev"
