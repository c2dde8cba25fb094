"""`vl-lst extract-features` with a tiny image encoder."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_photographs import write_photographs

from feature_extraction.store.store import FeatureStore
from vl_lst.cli import main


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photographs", 6)


def command(photographs: Path, out: Path, encoder: str, *more: str) -> list[str]:
    arguments = ["--images", str(photographs), "--out", str(out), "--encoder", encoder]
    return ["extract-features", *arguments, "--workers", "0", "--device", "cpu", *more]


def test_reports_and_writes_json(
    photographs: Path, tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "out.h5", tmp_path / "report.json"
    assert main(command(photographs, out, encoder, "--json", str(report))) == 0
    printed = capsys.readouterr()
    assert "6 of 6 images" in printed.out
    assert "images/s" in printed.out
    assert "extracting: 6/6" in printed.err
    written = json.loads(report.read_text())
    assert (written["images"], written["extracted"], written["failures"]) == (6, 6, {})
    assert written["spec"]["encoder"] == "tiny"
    assert written["file_bytes"] == out.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.h5",
        "photographs",
        "report.json",
    ]


def test_a_second_run_does_no_work(photographs: Path, tmp_path: Path, encoder: str) -> None:
    out, report = tmp_path / "out.h5", tmp_path / "report.json"
    assert main(command(photographs, out, encoder)) == 0
    assert main(command(photographs, out, encoder, "--json", str(report), "--quiet")) == 0
    assert json.loads(report.read_text())["extracted"] == 0


def test_settings_reach_the_spec(photographs: Path, tmp_path: Path, encoder: str) -> None:
    settings = ["--layer", "pooled", "--resize", "letterbox", "--precision", "bf16"]
    assert (
        main(command(photographs, tmp_path / "a.h5", encoder, *settings, "--weights", "random"))
        == 0
    )
    spec = FeatureStore(tmp_path / "a.h5").spec
    assert (spec.layer, spec.resize, spec.precision) == ("pooled", "letterbox", "bf16")
    assert (spec.weights, spec.grid, spec.channels) == ("random", (1, 1), 8)
    assert main(command(photographs, tmp_path / "b.h5", encoder, "--image-size", "64")) == 0
    assert FeatureStore(tmp_path / "b.h5").spec.grid == (2, 2)


def test_unreadable_images_are_listed_and_exit_with_1_after_the_others(
    photographs: Path, tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (photographs / "broken.jpg").write_text("oops")
    out = tmp_path / "out.h5"
    assert main(command(photographs, out, encoder)) == 1
    printed = capsys.readouterr()
    assert "failed broken: it is not an image" in printed.out
    assert "--allow-missing" in printed.err
    assert len(FeatureStore(out)) == 6
    assert main(command(photographs, out, encoder, "--allow-missing")) == 0


def one_stem_twice(photographs: Path, tmp_path: Path, encoder: str) -> list[str]:
    (photographs / "photo0.jpg").write_bytes(b"x")
    return command(photographs, tmp_path / "out.h5", encoder)


def no_images(photographs: Path, tmp_path: Path, encoder: str) -> list[str]:
    (tmp_path / "empty").mkdir()
    return command(tmp_path / "empty", tmp_path / "out.h5", encoder)


def unwritable(photographs: Path, tmp_path: Path, encoder: str) -> list[str]:
    return command(photographs, photographs / "photo0.png" / "out.h5", encoder)


def folder_as_target(photographs: Path, tmp_path: Path, encoder: str) -> list[str]:
    return command(photographs, photographs, encoder)


def other_spec(photographs: Path, tmp_path: Path, encoder: str) -> list[str]:
    assert main(command(photographs, tmp_path / "out.h5", encoder, "--quiet")) == 0
    return command(photographs, tmp_path / "out.h5", encoder, "--image-size", "64")


def unknown_encoder(photographs: Path, tmp_path: Path, encoder: str) -> list[str]:
    return command(photographs, tmp_path / "out.h5", "RN500")


def pickled_weights(photographs: Path, tmp_path: Path, encoder: str) -> list[str]:
    (tmp_path / "weights.pt").write_bytes(b"")
    return command(photographs, tmp_path / "out.h5", encoder, "--weights", f"{tmp_path}/weights.pt")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (one_stem_twice, "two files have the id 'photo0'"),
        (no_images, "no images in"),
        (unwritable, "cannot write"),
        (folder_as_target, "is a folder"),
        (other_spec, "image_size: found 32, expected 64"),
        (unknown_encoder, "did you mean RN50 or RN50x4"),
        (pickled_weights, "any code"),
    ],
)
def test_problems_exit_with_1_and_one_message(
    prepare: object,
    message: str,
    photographs: Path,
    tmp_path: Path,
    encoder: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = prepare(photographs, tmp_path, encoder)  # type: ignore[operator]
    capsys.readouterr()
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("error:") == 1
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    "wrong",
    [["--layer", "last"], ["--precision", "fp16"], ["--batch-size", "0"], ["--resize", "stretch"]],
)
def test_wrong_usage_exits_with_2(
    photographs: Path, tmp_path: Path, encoder: str, wrong: list[str]
) -> None:
    assert main(command(photographs, tmp_path / "out.h5", encoder, *wrong)) == 2


@pytest.mark.slow
def test_a_killed_extraction_resumes_to_the_same_file(
    photographs: Path, tmp_path: Path, encoder: str
) -> None:
    """After SIGKILL, the same command finishes the file."""
    # Large enough that the program is still running when its first batches are on disk.
    pixels = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
    Image.fromarray(pixels).save(photographs / "large.png", compress_level=0)
    for number in range(90):
        (photographs / f"large{number}.png").hardlink_to(photographs / "large.png")
    batches = ["--batch-size", "4"]
    assert main(command(photographs, tmp_path / "whole.h5", encoder, *batches)) == 0
    out = tmp_path / "out.h5"
    program = [sys.executable, "-m", "vl_lst", *command(photographs, out, encoder, *batches)]
    journal = tmp_path / "out.h5.partial" / "journal.jsonl"
    with subprocess.Popen(program, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") > 1:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    report = tmp_path / "report.json"
    assert main(command(photographs, out, encoder, *batches, "--json", str(report))) == 0
    assert 0 < json.loads(report.read_text())["extracted"] < 97
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()
