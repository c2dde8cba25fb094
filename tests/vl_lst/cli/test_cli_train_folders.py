"""Outputs of `train` and `demo`: obstacles, full disks, and resumed runs."""

import errno
import json
import logging
import os
import resource
from pathlib import Path

import pytest
from tiny_run import TinyWorld

from vl_lst.cli import main
from vl_lst.runs.log_file import log_to_file
from vl_lst.runs.metrics import MetricsLog


@pytest.fixture
def obstacles(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("file", "file is a file"),
        ("fifo", "fifo is a named pipe"),
        ("link", "link is a link to nowhere, which does not exist"),
        ("loop", "loop is a link to loop"),
        ("file/run", "file is a file"),
        ("link/run", "link is a link to nowhere, which does not exist"),
    ],
)
@pytest.mark.parametrize("command", ["train", "demo"])
def test_an_output_that_is_not_a_folder_is_named_and_left_alone(
    world: TinyWorld,
    obstacles: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
    found: str,
) -> None:
    before = sorted(path.name for path in obstacles.iterdir())
    out = obstacles / name
    arguments = ["demo", "--out", str(out)] if command == "demo" else world.train_arguments(out)
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert found in message
    assert "expected a folder, or a name that does not exist yet. Choose another folder." in message
    assert sorted(path.name for path in obstacles.iterdir()) == before
    assert (obstacles / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("name", ["", "run"])
def test_a_folder_that_cannot_be_written_is_one_message(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert main(world.train_arguments(locked / name)) == 1
    assert "ermission denied. Choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "demo"])
def test_an_empty_name_is_wrong_usage(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for empty in ("", " "):
        assert main([command, "--out", empty]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_message_and_the_run_resumes(
    world: TinyWorld,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk fills up while a line of the metrics is written."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    write = MetricsLog.write

    def full(self: MetricsLog, step: int, *arguments: object) -> None:
        if step == 10:
            raise OSError(errno.ENOSPC, "No space left on device", str(out / ".record.tmp"))
        write(self, step, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", full)
        assert main(world.train_arguments(out, "--quiet")) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"no space left on the device at {out}. Free some space" in message
    assert "--resume" in message
    assert json.loads((out / "record.json").read_text())["status"] == "failed"
    assert main(["train", "--out", str(out), "--resume", "--quiet"]) == 0
    assert main(world.train_arguments(whole, "--quiet")) == 0
    for name in ("metrics.jsonl", "checkpoints/last/model.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_log_that_cannot_be_written_prints_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, before = logging.getLogger("vl_lst.test"), resource.getrlimit(resource.RLIMIT_FSIZE)
    with log_to_file(tmp_path / "log.txt"):
        log.info("fits")
        size = (tmp_path / "log.txt").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            for number in range(3):
                log.info("does not fit %d", number)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        log.info("fits again")
    text = (tmp_path / "log.txt").read_text()
    assert ["fits" in text, "not fit" in text, "fits again" in text] == [True, False, True]
    assert capsys.readouterr().err == ""


def test_resuming_reports_what_it_does(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    assert main(["train", "--out", str(out), "--resume"]) == 1
    assert f"{out} holds no run to resume" in capsys.readouterr().err
    assert main(world.train_arguments(out, "--resume")) == 0
    assert "training starts from scratch" in capsys.readouterr().err
    assert main(["train", "--out", str(out), "--resume"]) == 0
    assert "the run was finished at step 10" in capsys.readouterr().err
    before = (out / "record.json").read_bytes()
    nowhere = str(tmp_path / "nowhere")
    assert main(["train", "--out", str(out), "--resume", "--data-root", nowhere]) == 1
    assert (out / "record.json").read_bytes() == before
    assert main(["train", "--out", str(out), "--resume"]) == 0, "the data root is unchanged"


def test_evaluate_reports_once_that_a_cuda_run_is_on_the_cpu(
    world: TinyWorld,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out = tmp_path / "run"
    assert main(world.train_arguments(out, "--quiet")) == 0
    record = json.loads((out / "record.json").read_text())
    (out / "record.json").write_text(json.dumps(record | {"device": "cuda: some GPU"}))
    assert main(["evaluate", str(out), "--split", "val2014"]) == 0
    assert capsys.readouterr().err.count("it runs on the CPU") == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [("WORLD_SIZE", "two"), ("LOCAL_RANK", "first"), ("RANK", "1"), ("LOCAL_WORLD_SIZE", "0")],
)
def test_malformed_launcher_variables_are_one_message(
    world: TinyWorld,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
) -> None:
    monkeypatch.setenv(variable, value)
    extract = ["extract-features", "--images", str(world.root / "images"), "--out"]
    for arguments in (
        world.train_arguments(tmp_path / "run"),
        [*extract, str(tmp_path / "a.h5"), "--encoder", str(world.encoder)],
    ):
        assert main(arguments) == 1
        message = capsys.readouterr().err
        assert f"{variable}='{value}'" in message
        assert message.count("error: ") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "demo"])
def test_processes_without_a_rendezvous_address_are_one_message(
    world: TinyWorld,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    for variable, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(variable, value)
    for variable in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    out = tmp_path / "run"
    arguments = ["demo", "--out", str(out)] if command == "demo" else world.train_arguments(out)
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert "WORLD_SIZE is 2" in message
    assert message.count("error: ") == 1
    assert not out.exists()


def test_launcher_variables_of_one_process_do_not_change_file_names(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    out, report = tmp_path / "a.h5", tmp_path / "a.json"
    images = world.root / "images" / "val2014"
    arguments = ["extract-features", "--images", str(images), "--out", str(out)]
    assert main([*arguments, "--encoder", str(world.encoder), "--json", str(report)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.json"]
