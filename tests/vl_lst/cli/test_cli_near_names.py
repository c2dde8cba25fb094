"""Image names that nearly match: every command reports how they differ."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import TinyWorld

from feature_extraction.store.store import FeatureStore
from vl_lst.cli import main
from vl_lst.cli._example_sheets import read_thumbnails
from vl_lst.progress import silent


def renamed(path: Path, out: Path, rename: Callable[[str], str]) -> Path:
    """Import the features of a store under other names."""
    store, folder = FeatureStore(path), out.with_suffix("")
    folder.mkdir()
    for image_id in store:
        np.save(folder / f"{rename(image_id)}.npy", store[image_id])
    assert main(["features", "import", str(folder), "--out", str(out), "--quiet"]) == 0
    return out


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("rename", "kind"),
    [
        (
            str.lower,
            "letter case from names in the feature file: found 'coco_train2014_000000000001'",
        ),
        (lambda name: name.rpartition("_")[2], "the prefix of a number"),
        (lambda name: name + " ", "spaces at the ends"),
    ],
)
def test_training_reports_how_names_differ(
    world: TinyWorld,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rename: Callable[[str], str],
    kind: str,
) -> None:
    features = renamed(world.train_features, tmp_path / "train.h5", rename)
    arguments = world.train_arguments(tmp_path / "run")
    arguments[arguments.index(str(world.train_features))] = str(features)
    arguments.remove(str(world.validation_features))
    capsys.readouterr()
    assert main(arguments) == 1
    printed = words(capsys.readouterr().err)
    assert "18 of the 18 images of train2014 have no features" in printed
    assert f"18 of them differ only in {kind}" in printed


def test_imported_names_may_have_a_suffix(world: TinyWorld, tmp_path: Path) -> None:
    features = [
        renamed(path, tmp_path / path.name, lambda name: name + ".jpg")
        for path in (world.train_features, world.validation_features)
    ]
    arguments = world.train_arguments(tmp_path / "run", "--set", "training.epochs=1", "--quiet")
    for before, now in zip(
        (world.train_features, world.validation_features), features, strict=True
    ):
        arguments[arguments.index(str(before))] = str(now)
    assert main(arguments) == 0


def test_data_check_reports_how_names_differ(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = renamed(world.train_features, tmp_path / "train.h5", str.lower)
    command = ["data", "check", "--task", "vqa", "--data-root", str(world.root)]
    out = tmp_path / "check.json"
    command += ["--split", "train2014", "--features", str(features), "--json", str(out)]
    assert main(command) == 1
    assert "18 of them differ only in letter case" in words(capsys.readouterr().err)
    (split,) = json.loads(out.read_text())["splits"]
    assert "letter case" in split["problem"]


def test_training_on_photographs_reports_how_names_differ(
    world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in (world.root / "images" / "train2014").iterdir():
        shutil.copy(path, folder / path.name.lower())
    files = []
    for name in ("train", "val"):
        files.append(tmp_path / f"{name}.jsonl")
        image = "COCO_train2014_000000000001.png"
        line = {"id": 1, "images": [image], "prompt": "is it red?", "answers": ["yes"]}
        files[-1].write_text(json.dumps(line) + "\n")
    command = ["train", "--task", "vqa", "--train-file", str(files[0]), "--val-file", str(files[1])]
    command += [
        "--images",
        str(folder),
        "--encoder",
        str(world.encoder),
        "--out",
        str(tmp_path / "r"),
    ]
    command += ["--backbone", str(world.backbone), "--method", "lst", "--quiet"]
    assert main(command) == 1
    printed = words(capsys.readouterr().err)
    assert (
        "1 of them differ only in letter case from names in the folder: found 'coco_train2014"
        in printed
    )


def test_leaderboard_pictures_report_how_names_differ(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "Cat.png")
    found = read_thumbnails(tmp_path, ["cat"], silent, lambda key, make: key)
    assert (
        "differ only in letter case from names in the folder: found 'Cat', expected 'cat'"
        in found.missing["cat"]
    )


def test_an_import_counts_files_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, document = tmp_path / "source", tmp_path / "import.json"
    source.mkdir()
    np.save(source / "a.npy", np.ones((4, 6), np.float32))
    (source / "b.pt").touch()
    command = ["features", "import", str(source), "--out", str(tmp_path / "out.h5")]
    assert main([*command, "--json", str(document)]) == 0
    assert "left out: 1 .pt" in capsys.readouterr().err
    assert json.loads(document.read_text())["left_out"] == {".pt": 1}
