"""`vl-lst features compress`, and `extract-features --compression`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feature_extraction.store.store import FeatureStore
from vl_lst.cli import main

EXTRACT = ["--encoder", "demo", "--image-size", "64", "--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8)
        Image.fromarray(pixels).resize((60, 40)).save(folder / f"photo{number}.png")
    return folder


def extract(photographs: Path, out: Path, *more: str) -> int:
    command = ["extract-features", "--images", str(photographs), "--out", str(out)]
    return main([*command, *EXTRACT, *more])


def test_compression_during_or_after_extraction_gives_the_same_file(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    report = tmp_path / "report.json"
    options = ("--compression", "zstd", "--json", str(report))
    assert extract(photographs, one, *options) == 0
    assert json.loads(report.read_text())["file_bytes"] == one.stat().st_size
    assert extract(photographs, two) == 0
    plain = FeatureStore(two)
    expected = plain.read(list(plain))
    assert main(["features", "compress", str(two), "--json", str(report)]) == 0
    assert "two.h5: " in capsys.readouterr().out
    assert one.read_bytes() == two.read_bytes()
    written = json.loads(report.read_text())
    assert written["compression"] == "zstd"
    assert written["file_bytes"] == two.stat().st_size < written["file_bytes_before"]
    compressed = FeatureStore(one)
    assert np.array_equal(compressed.read(list(compressed)), expected)


def test_a_compressed_file_stays_as_it_is(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    assert extract(photographs, out, "--compression", "zstd", "--quiet") == 0
    inode = out.stat().st_ino
    assert extract(photographs, out, "--compression", "zstd", "--quiet") == 0
    assert extract(photographs, out, "--quiet") == 0
    assert out.stat().st_ino == inode
    assert FeatureStore(out).compression == "zstd"


def test_an_image_that_could_not_be_read_is_added_later(photographs: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "photographs", tmp_path / "out.h5"
    folder.mkdir()
    for path in photographs.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    whole = (folder / "photo1.png").read_bytes()
    (folder / "photo1.png").write_bytes(whole[:50])
    options = ("--compression", "zstd", "--quiet")
    assert extract(folder, out, *options) == 1
    (folder / "photo1.png").write_bytes(whole)
    assert extract(folder, out, *options) == 0
    assert extract(photographs, tmp_path / "undisturbed.h5", *options) == 0
    assert out.read_bytes() == (tmp_path / "undisturbed.h5").read_bytes()


def test_info_verify_and_export_accept_compressed_and_joined_files(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, index = tmp_path / "all.h5", tmp_path / "all.h5"
    for number in (1, 2):
        more = ("--shard", f"{number}/2", "--batch-size", "1", "--compression", "zstd", "--quiet")
        assert extract(photographs, out, *more) == 0
    shards = [str(tmp_path / f"all.shard-{number}-of-2.h5") for number in (1, 2)]
    assert main(["features", "join", *shards, "--out", str(index)]) == 0
    assert main(["features", "info", str(index), "--json", str(tmp_path / "info.json")]) == 0
    printed = capsys.readouterr().out
    assert "an index of 2 files" in printed
    assert "compression zstd" in printed
    written = json.loads((tmp_path / "info.json").read_text())
    assert written["files"] == shards
    assert written["done"] == 3
    command = ["features", "verify", str(index), "--images", str(photographs), "--device", "cpu"]
    assert main([*command, "--quiet"]) == 0
    command = ["features", "export", str(index), "--out", str(tmp_path / "h5"), "--format", "h5"]
    assert main([*command, "--quiet"]) == 0
    assert len(list((tmp_path / "h5").glob("photo*.h5"))) == 3


def test_a_missing_file_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "compress", str(tmp_path / "none.h5")]) == 1
    assert "does not exist" in capsys.readouterr().err
