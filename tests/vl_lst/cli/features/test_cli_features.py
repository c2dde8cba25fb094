"""`vl-lst features` with the demo's image encoder."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from feature_extraction.store.store import FeatureStore
from vl_lst.cli import main

IMAGES = 5


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(IMAGES):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8)
        Image.fromarray(pixels).resize((60, 40)).save(folder / f"photo{number}.png")
    return folder


@pytest.fixture(scope="module")
def extracted(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("features") / "store.h5"
    (photographs / "broken.jpg").write_text("oops")
    settings = ["--encoder", "demo", "--image-size", "64", "--device", "cpu", "--workers", "0"]
    command = ["extract-features", "--images", str(photographs), "--out", str(out), *settings]
    assert main([*command, "--allow-missing", "--quiet"]) == 0
    (photographs / "broken.jpg").unlink()
    return out


def test_info_prints_spec_counts_failures_and_histogram(
    extracted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["features", "info", str(extracted), "--json", str(tmp_path / "info.json")]) == 0
    printed = capsys.readouterr().out
    assert "encoder     demo, weights" in printed
    assert "64 x 64 pixels, squash; encoder in fp32" in printed
    assert "4 x 512 float16, grid of 2 x 2" in printed
    assert "5 done, 1 failed, 0 pending, of 6" in printed
    assert "failed broken: it is not an image" in printed
    assert "values      of 5 images" in printed
    assert printed.count("█ ") + printed.count("█\n") >= 1
    written = json.loads((tmp_path / "info.json").read_text())
    assert (written["images"], written["done"], written["failed"], written["pending"]) == (
        6,
        5,
        1,
        0,
    )
    assert list(written["failures"]) == ["broken"]
    assert sum(written["values"]["histogram"]["counts"]) == 5 * 4 * 512
    assert written["spec_sha256"] == FeatureStore(extracted).spec.digest


def verify(file: Path, photographs: Path, *more: str) -> int:
    command = ["features", "verify", str(file), "--images", str(photographs), *more]
    return main([*command, "--device", "cpu"])


def test_verify_agrees_with_an_extraction(
    extracted: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(extracted, photographs, "--sample", "3", "--json", str(tmp_path / "v.json")) == 0
    printed = capsys.readouterr()
    assert "largest difference in 3 images" in printed.out
    assert "comparing: 3/3" in printed.err
    written = json.loads((tmp_path / "v.json").read_text())
    assert written["agrees"] is True
    assert len(written["images"]) == 3


def test_verify_fails_on_a_changed_value(
    extracted: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "changed.h5"
    changed.write_bytes(extracted.read_bytes())
    with h5py.File(changed, "r+") as file:
        row = list(file["image_id"].asstr()).index("photo2")
        file["features"][row, 1, 5] = 100
    assert verify(changed, photographs, "--quiet", "--json", str(tmp_path / "v.json")) == 1
    printed = capsys.readouterr()
    assert "image 'photo2', token 1, channel 5 (100 stored" in printed.out
    assert "does not hold the features that demo" in printed.err
    assert "Traceback" not in printed.err
    assert json.loads((tmp_path / "v.json").read_text())["agrees"] is False


def test_exported_features_are_imported_and_verified(
    extracted: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Export to the layout of the reference implementation, import and verify."""
    old, out = tmp_path / "old", tmp_path / "new.h5"
    assert main(["features", "export", str(extracted), "--out", str(old), "--format", "h5"]) == 0
    assert "5 images in 5 files; 5 written now, 1 without features" in capsys.readouterr().out
    command = ["features", "import", str(old), "--out", str(out)]
    declared = ["--encoder", "demo", "--image-size", "64"]
    assert main([*command, *declared, "--json", str(tmp_path / "i.json")]) == 0
    printed = capsys.readouterr()
    assert "5 of 5 images of 4 x 512" in printed.out
    assert "importing: 5/5" in printed.err
    assert json.loads((tmp_path / "i.json").read_text())["spec"]["weights"] == "imported"
    assert main(["features", "info", str(out)]) == 0
    assert "imported; declared as demo" in capsys.readouterr().out
    assert verify(out, photographs, "--quiet") == 0
    before, after = FeatureStore(extracted), FeatureStore(out)
    assert np.array_equal(after.read(list(before)), before.read(list(before)))


def test_arrow_export(extracted: Path, tmp_path: Path) -> None:
    from datasets import load_from_disk

    out = tmp_path / "arrow"
    command = ["features", "export", str(extracted), "--out", str(out), "--format", "arrow"]
    assert main([*command, "--quiet", "--json", str(tmp_path / "e.json")]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["written"] == 5
    assert load_from_disk(str(out))["image_id"][:2] == ["photo0", "photo1"]


def test_damaged_files_make_the_import_exit_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "good.npy", np.ones((4, 3), np.float32))
    (tmp_path / "bad.npy").write_bytes(b"")
    command = ["features", "import", str(tmp_path), "--out", str(tmp_path / "out.h5"), "--quiet"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "failed bad:" in printed.out
    assert "--allow-missing" in printed.err
    assert main([*command, "--allow-missing"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "{tmp}/none.h5"], "does not exist"),
        (["verify", "{store}", "--images", "{tmp}"], "no images in"),
        (["import", "{tmp}", "--out", "{tmp}/out.h5"], "expected files IMAGE_ID.h5"),
        (["import", "{store}", "--out", "{tmp}/out.h5"], "already a feature store"),
        (["export", "{store}", "--out", "{tmp}", "--format", "h5"], "holds something else"),
    ],
)
def test_problems_exit_with_1_and_one_message(
    extracted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    filled = [each.format(tmp=tmp_path, store=extracted) for each in arguments]
    assert main(["features", *filled]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("error:") == 1


def test_an_unknown_format_is_wrong_usage(extracted: Path, tmp_path: Path) -> None:
    command = ["features", "export", str(extracted), "--out", str(tmp_path / "x")]
    assert main([*command, "--format", "pickle"]) == 2
