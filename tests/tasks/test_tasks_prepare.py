"""Derived files: VL-T5's Karpathy splits, and answer lists."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from eval.errors import FileFormatError, InputError
from tasks import Prepared, get_task

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """VQA's fixture, with a made-up Karpathy file for its images."""
    root = tmp_path / "root"
    shutil.copytree(FIXTURES / "vqa" / "vqa", root / "vqa")
    (root / "vqa" / "karpathy_test.json").unlink()
    task = get_task("vqa")
    images = task.load(root, "train2014").image_ids()
    marks = dict.fromkeys(images, "train")
    marks |= dict(
        zip(
            task.load(root, "val2014").image_ids(),
            ["val", "test", *["restval"] * len(images) * 9],
            strict=False,
        )
    )
    rows = [{"filename": f"{image}.jpg", "split": mark} for image, mark in marks.items()]
    (root / "coco").mkdir()
    (root / "coco" / "dataset_coco.json").write_text(json.dumps({"images": rows}))
    return root


def prepare(root: Path, name: str = "vqa", **options: Any) -> list[Prepared]:
    prepare_files = get_task(name).prepare
    assert prepare_files is not None
    return list(prepare_files(root, **{"min_count": 1, "overwrite": False, **options}))


def test_karpathy_splits_partition_all_questions_with_their_answers(root: Path) -> None:
    assert all(each.written for each in prepare(root))
    task = get_task("vqa")
    official = {
        example.id: example
        for split in ("train2014", "val2014")
        for example in task.load(root, split)
    }
    derived = {
        example.id: example
        for split in ("karpathy_train", "karpathy_val", "karpathy_test")
        for example in task.load(root, split)
    }
    assert derived == official
    assert set(task.load(root, "karpathy_test").image_ids()) == {
        task.load(root, "val2014").image_ids()[1]
    }


def test_a_derived_split_scores_like_its_official_questions(root: Path) -> None:
    prepare(root)
    task = get_task("vqa")
    ids = task.load(root, "karpathy_test").ids()
    every = task.score(
        dict.fromkeys(task.load(root, "val2014").ids(), "4"), root, "val2014"
    ).per_example
    part = task.score(dict.fromkeys(ids, "4"), root, "karpathy_test").per_example
    assert part == {id_: every[id_] for id_ in ids}


def test_existing_files_are_kept_unless_overwritten(root: Path) -> None:
    prepare(root)
    file = root / "vqa" / "trainval_label2ans.json"
    kept = file.stat().st_mtime_ns
    again = prepare(root)
    assert not any(each.written for each in again)
    assert file.stat().st_mtime_ns == kept
    assert all(each.written for each in prepare(root, overwrite=True))


def test_the_answer_list_and_its_inverse_are_written(root: Path) -> None:
    first = prepare(root)[0]
    answers = json.loads((root / "vqa" / "trainval_label2ans.json").read_text())
    labels = json.loads((root / "vqa" / "trainval_ans2label.json").read_text())
    assert [labels[answer] for answer in answers] == list(range(len(answers)))
    assert first.note.startswith(f"{len(answers):,} answers, each of at least 1 example")
    assert "not the 3,129 of the standard list" in first.note


def test_too_high_a_minimum_count_is_an_error(root: Path) -> None:
    with pytest.raises(InputError, match="no answer occurs at least 999"):
        prepare(root, min_count=999)


def test_the_default_count_is_the_task_s_and_the_note_reports_coverage(
    root: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no answer occurs at least 9"):
        prepare(root, min_count=None)
    assert "covering 100.0 % of their answers" in prepare(root)[0].note
    shutil.copytree(FIXTURES / "gqa" / "gqa", tmp_path / "copy" / "gqa")
    (listed,) = prepare(tmp_path / "copy", "gqa", min_count=None)
    assert "each of at least 1 example of train and val, covering 100.0 %" in listed.note


def test_an_inverse_of_another_list_is_an_error(root: Path) -> None:
    prepare(root)
    (root / "vqa" / "trainval_ans2label.json").write_text('{"yes": 0}')
    with pytest.raises(FileFormatError, match="not the inverse"):
        prepare(root)


def test_a_missing_karpathy_file_is_named_with_its_address(root: Path) -> None:
    (root / "coco" / "dataset_coco.json").unlink()
    with pytest.raises(InputError, match=r"caption_datasets\.zip"):
        prepare(root)
    assert (root / "vqa" / "trainval_label2ans.json").exists()


def test_unlisted_images_are_counted(root: Path) -> None:
    file = root / "coco" / "dataset_coco.json"
    rows = json.loads(file.read_text())["images"]
    file.write_text(json.dumps({"images": rows[1:]}))
    assert "left out" in prepare(root)[-1].note
    file.write_text(json.dumps({"images": []}))
    with pytest.raises(InputError, match="none of the"):
        prepare(root, overwrite=True)


def test_an_unknown_mark_is_an_error(root: Path) -> None:
    document = {"images": [{"filename": "a.jpg", "split": "dev"}]}
    (root / "coco" / "dataset_coco.json").write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=r"images\[0\] has split 'dev'"):
        prepare(root)


def test_the_answer_list_of_gqa_is_complete(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "gqa" / "gqa", tmp_path / "gqa")
    (prepared,) = prepare(tmp_path, "gqa")
    task = get_task("gqa")
    expected = {
        answer
        for split in ("train", "val")
        for example in task.load(tmp_path, split)
        for answer, _ in example.targets
    }
    assert set(json.loads(prepared.path.read_text())) == expected


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
def test_numbers_that_json_does_not_allow_are_refused(root: Path, number: str) -> None:
    path = root / "vqa" / "v2_mscoco_val2014_annotations.json"
    annotations = json.loads(path.read_text())
    answer = annotations["annotations"][0]["answers"][0]
    answer |= {"answer_id": 7, "answer_confidence": "REPLACED"}
    path.write_text(json.dumps(annotations).replace('"REPLACED"', number))
    with pytest.raises(FileFormatError, match=r"annotations.json: .*question \d+ holds NaN or an"):
        prepare(root)
