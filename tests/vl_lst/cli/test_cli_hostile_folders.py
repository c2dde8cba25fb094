"""A folder of foreign runs: a bad run never stops the others, and is always named."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
from board_runs import make_record, write_run

from vl_lst.cli import main

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "vqa"


def board_of(runs: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Return the page and what was printed on standard error."""
    out = runs.parent / "board.html"
    assert main(["leaderboard", str(runs), "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8"), capsys.readouterr().err


def test_a_bad_record_is_left_out_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    write_run(runs, "good")
    paths = {}
    for name in ("pipe", "zero", "cyclic", "folder", "socket", "huge", "utf16", "twice", "deep"):
        paths[name] = write_run(runs, name) / "record.json"
        paths[name].unlink()
    os.mkfifo(paths["pipe"])
    paths["zero"].symlink_to("/dev/zero")
    paths["cyclic"].symlink_to("record.json")
    paths["folder"].mkdir()
    monkeypatch.chdir(paths["socket"].parent)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("record.json")
    with paths["huge"].open("wb") as file:
        file.truncate(1 << 40)
    paths["utf16"].write_text(json.dumps(make_record()), encoding="utf-16")
    paths["twice"].write_text('{"status": "failed", "status": "success"}')
    deep = make_record(recipe__note=json.loads("[" * 300 + "]" * 300))
    paths["deep"].write_text(json.dumps(deep))
    write_run(runs, "zz-last", seed=1)
    page, errors = board_of(runs, capsys)
    for name, reason in {
        "pipe": "is a named pipe",
        "zero": "is a device",
        "cyclic": "symbolic links",
        "folder": "is a folder",
        "socket": "is a socket",
        "huge": "too large",
        "utf16": "UTF-16",
        "twice": "the key 'status' occurs more than once",
        "deep": "nested more than 50 levels",
    }.items():
        line = next(line for line in errors.splitlines() if line.startswith(f"left out {name}: "))
        assert reason in line
    assert "zz-last" in page


def test_a_byte_order_mark_before_a_record_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = write_run(tmp_path / "runs", "marked") / "record.json"
    record.write_text(record.read_text(), encoding="utf-8-sig")
    _, errors = board_of(tmp_path / "runs", capsys)
    assert "left out" not in errors


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folders_and_records_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    write_run(runs, "good")
    folder, record = write_run(runs, "folder"), write_run(runs, "record") / "record.json"
    folder.chmod(0)
    record.chmod(0)
    try:
        _, errors = board_of(runs, capsys)
    finally:
        folder.chmod(0o700)
    assert "left out folder: unreadable folder: Permission denied" in errors
    assert "left out record: unreadable record" in errors


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", ["metrics.jsonl", "model.json", "predictions/vqa-val2014.json"])
def test_a_special_file_in_a_run_costs_only_its_own_contents(
    name: str, make: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "runs", "a")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).unlink(missing_ok=True)
    assert callable(make)
    make(run / name)
    page, _ = board_of(tmp_path / "runs", capsys)
    if name != "model.json":
        assert "expected a regular file" in page


def test_invalid_task_names_in_curves_are_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "runs", "a")
    (run / "metrics.jsonl").write_text('{"step": 1, "task": ["vqa"]}\n{"step": 1, "loss": 2}\n')
    page, _ = board_of(tmp_path / "runs", capsys)
    assert "Training loss" in page


@pytest.mark.parametrize("root", ["\0", "/dev", "\ud800", "a" * 5000])
def test_a_record_may_name_any_data_root(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "runs", "a", recipe__data__root=root)
    (run / "predictions").mkdir()
    (run / "predictions" / "vqa-val2014.json").write_text("[]")
    write_run(tmp_path / "runs", "b", seed=1)
    page, errors = board_of(tmp_path / "runs", capsys)
    assert "The examples cannot be shown" in page or "left out a" in errors


def test_own_files_named_in_a_record_must_be_regular(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "own.jsonl")
    files = {"vqa": str(tmp_path / "own.jsonl")}
    run = write_run(
        tmp_path / "runs",
        "a",
        recipe__data__train_file=files,
        recipe__data__validation_file=files,
        recipe__data__validation_split={"vqa": "val"},
    )
    record = json.loads((run / "record.json").read_text())
    record["scores"]["vqa"]["val"] = record["scores"]["vqa"].pop("val2014")
    (run / "record.json").write_text(json.dumps(record))
    (run / "predictions").mkdir()
    (run / "predictions" / "vqa-val.json").write_text("[]")
    page, _ = board_of(tmp_path / "runs", capsys)
    assert "own.jsonl is a named pipe: expected a regular file" in page


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_special_files_below_a_data_root_are_refused(
    make: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(FIXTURE, tmp_path / "root")
    questions = root / "vqa" / "v2_OpenEnded_mscoco_val2014_questions.json"
    questions.unlink()
    assert callable(make)
    make(questions)
    assert main(["data", "check", "--task", "vqa", "--data-root", str(root)]) == 1
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert f"{questions} is a " in errors


def test_process_substitution_is_read_and_special_files_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text('{"id": 1, "images": ["a.jpg"], "prompt": "what?", "answers": ["cup"]}\n')
    score = ["score", "--task", "gqa", "--file", str(own), "--predictions"]
    reader, writer = os.pipe()
    os.write(writer, b'[{"id": 1, "answer": "cup"}]')
    os.close(writer)
    assert main([*score, f"/dev/fd/{reader}"]) == 0
    os.close(reader)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        assert main([*score, str(path)]) == 1
    assert capsys.readouterr().err.count("error: ") == 3
