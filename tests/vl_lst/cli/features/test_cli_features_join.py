"""Extraction in shards, by --shard and under torchrun, then joined."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_photographs import write_photographs

from feature_extraction.store import open_features
from feature_extraction.store.store import FeatureStore
from vl_lst.cli import main
from vl_lst.cli._distributed import device_of_process


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photographs", 7)


def command(photographs: Path, out: Path, encoder: str, *more: str) -> list[str]:
    given = {"--images": photographs, "--out": out, "--encoder": encoder, "--device": "cpu"}
    always = [str(part) for pair in given.items() for part in pair]
    return ["extract-features", *always, "--workers", "0", "--batch-size", "2", *more]


def test_shards_joined_equal_one_file(
    photographs: Path, tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(photographs, tmp_path / "one.h5", encoder)) == 0
    out, report = tmp_path / "all.h5", tmp_path / "report.json"
    for number in (1, 2, 3):
        arguments = ("--shard", f"{number}/3", "--json", str(report))
        assert main(command(photographs, out, encoder, *arguments)) == 0
        assert json.loads(report.read_text())["path"] == str(
            tmp_path / f"all.shard-{number}-of-3.h5"
        )
    shards = [str(path) for path in sorted(tmp_path.glob("all.shard-*.h5"))]
    capsys.readouterr()
    assert main(["features", "join", *shards, "--out", str(out), "--json", str(report)]) == 0
    assert "7 of 7 images, an index of 3 files" in capsys.readouterr().out
    whole, joined = FeatureStore(tmp_path / "one.h5"), open_features(out)
    assert list(joined) == list(whole)
    assert np.array_equal(joined.read(list(whole)), whole.read(list(whole)))
    written = json.loads(report.read_text())
    assert (written["kind"], written["files"], written["images"]) == ("index", shards, 7)
    copy = tmp_path / "copy.h5"
    assert main(["features", "join", *shards, "--out", str(copy), "--copy", "--quiet"]) == 0
    assert copy.read_bytes() == (tmp_path / "one.h5").read_bytes()


def test_a_missing_shard_exits_with_1_and_its_name(
    photographs: Path, tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all.h5"
    assert main(command(photographs, out, encoder, "--shard", "1/2")) == 0
    shard = tmp_path / "all.shard-1-of-2.h5"
    assert main(["features", "join", str(shard), "--out", str(out)]) == 1
    printed = capsys.readouterr().err
    assert "all.shard-2-of-2.h5" in printed
    assert printed.count("error:") == 1


@pytest.mark.parametrize("wrong", ["0/2", "3/2", "two"])
def test_an_invalid_shard_is_wrong_usage(
    photographs: Path, tmp_path: Path, encoder: str, wrong: str
) -> None:
    assert main(command(photographs, tmp_path / "all.h5", encoder, "--shard", wrong)) == 2


def test_more_shards_than_images_exit_with_1(
    photographs: Path, tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(photographs, tmp_path / "all.h5", encoder, "--shard", "1/8")) == 1
    assert "7 images cannot be divided into 8 shards" in capsys.readouterr().err


def test_a_shard_and_torchrun_exclude_each_other(
    photographs: Path, tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(command(photographs, tmp_path / "all.h5", encoder, "--shard", "1/2")) == 2


def test_each_process_of_a_machine_takes_its_own_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "6")
    assert device_of_process("auto") == device_of_process("cuda") == "cuda:2"
    assert device_of_process("cuda:1") == "cuda:1"
    assert device_of_process("cpu") == "cpu"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert device_of_process("auto") == "auto"


@pytest.mark.slow
def test_processes_started_as_by_torchrun(photographs: Path, tmp_path: Path, encoder: str) -> None:
    """A process with unreadable images waits for the other, then exits with 1."""
    (photographs / "photo0-broken.png").write_text("no picture")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    arguments = command(
        photographs, tmp_path / "all.h5", encoder, "--json", str(tmp_path / "r.json")
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "vl_lst", *arguments],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [process.communicate(timeout=500)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [1, 0], printed
    assert "extracting: " in printed[0]
    assert "extracting: " not in printed[1]
    assert json.loads((tmp_path / "r.shard-2-of-2.json").read_text())["images"] == 4
    shards = [str(path) for path in sorted(tmp_path.glob("all.shard-*.h5"))]
    assert main(["features", "join", *shards, "--out", str(tmp_path / "all.h5")]) == 0
    assert len(open_features(tmp_path / "all.h5")) == 7
