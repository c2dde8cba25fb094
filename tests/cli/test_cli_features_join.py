"""Extraction in shards, with --shard and as torchrun does it, then joined."""

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
from vl_lst.cli._processes import own_device


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photographs", 7)


def command(photographs: Path, out: Path, tower: str, *more: str) -> list[str]:
    given = {"--images": photographs, "--out": out, "--encoder": tower, "--device": "cpu"}
    always = [str(part) for pair in given.items() for part in pair]
    return ["extract-features", *always, "--workers", "0", "--batch-size", "2", *more]


def test_shards_joined_equal_one_file(
    photographs: Path, tmp_path: Path, tower: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(photographs, tmp_path / "one.h5", tower)) == 0
    out, report = tmp_path / "all.h5", tmp_path / "report.json"
    for number in (1, 2, 3):
        arguments = ("--shard", f"{number}/3", "--json", str(report))
        assert main(command(photographs, out, tower, *arguments)) == 0
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
    told = json.loads(report.read_text())
    assert (told["kind"], told["files"], told["images"]) == ("index", shards, 7)
    copy = tmp_path / "copy.h5"
    assert main(["features", "join", *shards, "--out", str(copy), "--copy", "--quiet"]) == 0
    assert copy.read_bytes() == (tmp_path / "one.h5").read_bytes()


def test_a_missing_shard_exits_with_1_and_its_name(
    photographs: Path, tmp_path: Path, tower: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all.h5"
    assert main(command(photographs, out, tower, "--shard", "1/2")) == 0
    shard = tmp_path / "all.shard-1-of-2.h5"
    assert main(["features", "join", str(shard), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert "all.shard-2-of-2.h5" in said
    assert said.count("error:") == 1


@pytest.mark.parametrize("wrong", ["0/2", "3/2", "two"])
def test_a_wrong_shard_is_wrong_usage(
    photographs: Path, tmp_path: Path, tower: str, wrong: str
) -> None:
    assert main(command(photographs, tmp_path / "all.h5", tower, "--shard", wrong)) == 2


def test_more_shards_than_images_exit_with_1(
    photographs: Path, tmp_path: Path, tower: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(photographs, tmp_path / "all.h5", tower, "--shard", "1/8")) == 1
    assert "7 images cannot be divided into 8 shards" in capsys.readouterr().err


def test_a_shard_and_torchrun_exclude_each_other(
    photographs: Path, tmp_path: Path, tower: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(command(photographs, tmp_path / "all.h5", tower, "--shard", "1/2")) == 2


def test_each_process_of_a_machine_takes_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "6")
    assert own_device("auto") == own_device("cuda") == "cuda:2"
    assert own_device("cuda:1") == "cuda:1"
    assert own_device("cpu") == "cpu"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert own_device("auto") == "auto"


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "join", "--help"]) == 0
    assert "vl-lst features join val.shard-*.h5 --out" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_processes_as_torchrun_starts_them(photographs: Path, tmp_path: Path, tower: str) -> None:
    """Each does its shard; one whose images cannot all be read waits for the other, then fails."""
    (photographs / "photo0-broken.png").write_text("no picture")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    arguments = command(photographs, tmp_path / "all.h5", tower, "--json", str(tmp_path / "r.json"))
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
        said = [process.communicate(timeout=500)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [1, 0], said
    assert "extracting: " in said[0]
    assert "extracting: " not in said[1]
    assert json.loads((tmp_path / "r.shard-2-of-2.json").read_text())["images"] == 4
    shards = [str(path) for path in sorted(tmp_path.glob("all.shard-*.h5"))]
    assert main(["features", "join", *shards, "--out", str(tmp_path / "all.h5")]) == 0
    assert len(open_features(tmp_path / "all.h5")) == 7
