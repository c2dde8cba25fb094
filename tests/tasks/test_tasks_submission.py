"""Submissions: written files pass the check, and errors are explained."""

import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from eval.errors import FileFormatError, InputError, PredictionError
from tasks import Task, get_task
from tasks._submission import check_submission, write_submission

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"


def answers(task: Task, root: Path, split: str, answer: str = "yes") -> dict[str, str]:
    return dict.fromkeys(task.load(root, split).ids(), answer)


@pytest.mark.parametrize(
    ("name", "split", "file", "answer"),
    [
        ("vqa", "test-dev2015", "vqa_OpenEnded_mscoco_test-dev2015_my-run_results.json", "yes"),
        ("gqa", "val", "val_my-run_predictions.json", "yes"),
        ("nlvr2", "dev", "nlvr2_dev_my-run.csv", "true"),
    ],
)
def test_written_submissions_pass_the_check(
    name: str, split: str, file: str, answer: str, tmp_path: Path
) -> None:
    task, root = get_task(name), FIXTURES / name
    predictions = answers(task, root, split, answer)
    written = write_submission(task, predictions, root, split, tmp_path, name="my_run")
    assert written.path == tmp_path / file
    assert not written.missing
    assert task.read_predictions(written.path) == predictions
    check = check_submission(task, written.path, root, split)
    assert check.answers == {split: len(predictions)}
    published = task.sizes[split].examples
    assert any(f"{published:,} officially" in note for note in check.notes)
    assert not any("official file name is" in note for note in check.notes)


def test_captions_are_archived_once_both_splits_are_written(tmp_path: Path) -> None:
    task, root = get_task("caption"), FIXTURES / "caption"
    first, second = (
        write_submission(
            task, answers(task, root, split, "a dog"), root, split, tmp_path, name="lst"
        )
        for split in ("val2014", "test2014")
    )
    assert first.path.name == "captions_val2014_lst_results.json"
    assert first.missing == ["test2014"]
    assert second.path.name == "captions_lst_results.zip"
    with zipfile.ZipFile(second.path) as archive:
        assert archive.namelist() == [
            "captions_val2014_lst_results.json",
            "captions_test2014_lst_results.json",
        ]
    assert second.check.answers.keys() == {"val2014", "test2014"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["captions_val2014_lst_results.json"], "expected exactly captions_val2014_<name>"),
        (
            ["a/captions_val2014_x_results.json", "captions_test2014_x_results.json"],
            "without folders",
        ),
        (
            ["captions_val2014_x_results.json", "captions_test2014_y_results.json"],
            "different methods, x and y",
        ),
    ],
)
def test_archives_with_wrong_names_are_refused(
    members: list[str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "results.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, "[]")
    with pytest.raises(FileFormatError, match=message):
        check_submission(get_task("caption"), path, FIXTURES / "caption", "val2014")


def test_the_files_in_an_archive_are_checked(tmp_path: Path) -> None:
    task, root = get_task("caption"), FIXTURES / "caption"
    path = tmp_path / "results.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for split in ("val2014", "test2014"):
            ids = task.load(root, split).ids()[split == "test2014" :]
            content = [{"image_id": int(id_), "caption": "a dog"} for id_ in ids]
            archive.writestr(f"captions_{split}_lst_results.json", json.dumps(content))
    with pytest.raises(PredictionError, match="1 has no prediction"):
        check_submission(task, path, root, "test2014")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda rows: rows[1:], PredictionError, "1 has no prediction"),
        (lambda rows: [*rows, rows[0]], PredictionError, "more than one answer"),
        (
            lambda rows: [*rows, {"question_id": 1, "answer": "yes"}],
            PredictionError,
            "1 prediction belongs to another example",
        ),
        (
            lambda rows: [{**row, "question_id": str(row["question_id"])} for row in rows],
            FileFormatError,
            "expected an integer",
        ),
        (lambda rows: [{**row, "answer": 1} for row in rows], FileFormatError, "expected a string"),
        (lambda rows: {"results": rows}, FileFormatError, "a JSON list"),
    ],
)
def test_errors_in_vqa_files_are_explained(
    change: object, error: type[Exception], message: str, tmp_path: Path
) -> None:
    assert callable(change)
    task, root = get_task("vqa"), FIXTURES / "vqa"
    ids = task.load(root, "test-dev2015").ids()
    rows = [{"question_id": int(id_), "answer": "yes"} for id_ in ids]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(change(rows)))
    with pytest.raises(error, match=message):
        check_submission(task, path, root, "test-dev2015")


def test_unusual_but_valid_submissions_get_notes(tmp_path: Path) -> None:
    task, root = get_task("vqa"), FIXTURES / "vqa"
    path = tmp_path / "mine.json"
    task.write_predictions(answers(task, root, "val2014", ""), path)
    notes = check_submission(task, path, root, "val2014").notes
    assert any("not mine.json" in note for note in notes)
    assert any("answers of val2014 are empty" in note for note in notes)
    assert any("accepts test-dev2015 and test2015, not val2014" in note for note in notes)


def test_archives_are_refused_if_the_server_takes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "results.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("results.json", "[]")
    with pytest.raises(FileFormatError, match="Unpack it"):
        check_submission(get_task("vqa"), path, FIXTURES / "vqa", "test-dev2015")


def test_a_task_without_a_server_is_an_error(tmp_path: Path) -> None:
    task = replace(get_task("vqa"), submission=None)
    with pytest.raises(InputError, match="no public test server"):
        check_submission(task, tmp_path / "x.json", FIXTURES / "vqa", "val2014")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        check_submission(get_task("vqa"), tmp_path / "x.json", FIXTURES / "vqa", "val2014")
    with pytest.raises(InputError, match="is a folder: expected a submission of vqa"):
        check_submission(get_task("vqa"), tmp_path, FIXTURES / "vqa", "val2014")
    (tmp_path / "x.json").write_text("[]")
    shutil.copytree(FIXTURES / "vqa", tmp_path / "root")
    (tmp_path / "root/vqa/v2_OpenEnded_mscoco_test-dev2015_questions.json").unlink()
    with pytest.raises(InputError, match="test-dev2015_questions"):
        check_submission(get_task("vqa"), tmp_path / "x.json", tmp_path / "root", "test-dev2015")


@pytest.mark.parametrize("name", ["vqa", "gqa"])
def test_formats_that_servers_do_not_accept_are_refused(name: str, tmp_path: Path) -> None:
    """Predictions may begin with a byte-order mark or be JSON Lines; submissions may not."""
    task, root = get_task(name), FIXTURES / name
    split = {"vqa": "test-dev2015", "gqa": "val"}[name]
    path = tmp_path / "results.json"
    task.write_predictions(answers(task, root, split), path)
    plain = path.read_text(encoding="utf-8")
    check_submission(task, path, root, split)
    path.write_text(plain, encoding="utf-8-sig")
    with pytest.raises(FileFormatError, match="begins with a byte-order mark"):
        check_submission(task, path, root, split)
    path.write_text("\n".join(map(json.dumps, json.loads(plain))), encoding="utf-8")
    with pytest.raises(FileFormatError, match="is not a JSON list; expected one list"):
        check_submission(task, path, root, split)


def test_a_pipe_is_not_a_submission(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "results.json")
    with pytest.raises(InputError):
        check_submission(get_task("gqa"), tmp_path / "results.json", FIXTURES / "gqa", "val")
