"""`vl-lst data` for all tasks of a suite."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_suite import write_suite_data

from eval.errors import InputError
from tasks import SUITES
from vl_lst.cli import main

TASKS = SUITES["glue"]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("task", [None, "rte"])
def test_the_data_of_all_tasks_are_checked(
    task: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_suite_data(tmp_path / "data")
    if task is not None:
        (root / "glue" / "RTE" / "dev.tsv").unlink()
    report = tmp_path / "report.json"
    arguments = ["--task", "glue", "--data-root", str(root), "--json", str(report)]
    assert main(["data", "check", *arguments, "--split", "dev"]) == (0 if task is None else 1)
    document = read(report)
    assert document["complete"] == (task is None)
    incomplete = [name for name, each in document["tasks"].items() if not each["complete"]]
    assert incomplete == ([] if task is None else ["rte"])
    splits = [each["split"] for each in document["tasks"]["mnli"]["splits"]]
    assert splits == ["dev_matched", "dev_mismatched"]
    if task is not None:
        assert "rte: dev needs glue/RTE/dev.tsv" in capsys.readouterr().err
    assert main(["data", "prepare", *arguments]) == 0
    assert list(read(report)["tasks"]) == list(TASKS)
    assert main(["data", "check", *arguments, "--features", "a.h5"]) == 2


def test_the_files_of_all_tasks_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One host that is down does not keep back the files of others."""

    def download(file: Any, data_root: Path, **_: object) -> list[Path]:
        if "RTE" in file.path:
            raise InputError("the server cannot be reached")
        path = data_root / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("downloaded")
        return [path]

    monkeypatch.setattr("tasks._download.download_file", download)
    report = tmp_path / "report.json"
    arguments = ["--task", "glue", "--data-root", str(tmp_path), "--json", str(report)]
    assert main(["data", "download", *arguments, "--split", "dev", "--quiet"]) == 1
    assert "  rte: the server cannot be reached" in capsys.readouterr().err
    documents = read(report)["tasks"]
    assert list(documents) == list(TASKS)
    assert documents["rte"]["problems"] == ["the server cannot be reached"]
    assert str(tmp_path / "glue" / "STS-B" / "dev.tsv") in documents["stsb"]["written"]
