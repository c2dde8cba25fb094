"""Real statements and pictures of NLVR, from photographs to a submission, in both layouts."""

import json
import shutil
from pathlib import Path

import pytest

from vl_lst.cli import main

STATEMENTS = 12
QUICK = [
    *("--set", "training.epochs=1", "--set", f"training.batch_size={STATEMENTS // 2}"),
    *("--set", "training.device=cpu", "--set", "training.workers=0", "--quiet"),
]


@pytest.fixture(params=["same", "split"])
def root(request: pytest.FixtureRequest, shared_data: Path, tmp_path: Path) -> Path:
    """A data root with a few statements for training, others for validation, and their images."""
    given = shared_data / "data" / "nlvr_real" / request.param
    if not given.is_dir():
        pytest.skip(f"no {given}")
    root = tmp_path / "data"
    (root / "nlvr2").mkdir(parents=True)
    (root / "images").mkdir()
    lines = (given / "nlvr2" / "dev.json").read_text(encoding="utf-8").splitlines()
    for name, chosen in (("train", lines[:STATEMENTS]), ("dev", lines[-STATEMENTS:])):
        (root / "nlvr2" / f"{name}.json").write_text("\n".join(chosen) + "\n", encoding="utf-8")
        for line in chosen:
            pair = json.loads(line)["identifier"].rpartition("-")[0]
            for image in (given / "images").rglob(f"{pair}-img[01].png"):
                shutil.copy(image, root / "images")
    return root


def test_photographs_become_a_submission(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VL_LST_CACHE", str(tmp_path / "cache"))
    features, run, scores = tmp_path / "nlvr.h5", tmp_path / "run", tmp_path / "scores.json"
    images = ["--images", str(root / "images"), "--out", str(features)]
    assert main(["extract-features", *images, "--encoder", "demo", "--quiet"]) == 0

    nlvr2 = ["--task", "nlvr2", "--data-root", str(root)]
    table = tmp_path / "check.json"
    wanted = ["--split", "train", "--split", "dev", "--features", str(features)]
    assert main(["data", "check", *nlvr2, *wanted, "--json", str(table)]) == 0

    trained = [*nlvr2, "--features", str(features), "--out", str(run), "--backbone", "demo"]
    assert main(["train", *trained, *QUICK]) == 0
    evaluation = ["--split", "dev", "--submission", "--json", str(scores)]
    capsys.readouterr()
    assert main(["evaluate", str(run), *evaluation]) == 0
    metrics = json.loads(scores.read_text(encoding="utf-8"))["metrics"]
    low, high = metrics["accuracy_interval"]
    assert 0 <= low <= metrics["accuracy"] <= high <= 1
    assert f"{low:.4f} to {high:.4f} (95%)" in capsys.readouterr().out

    (submission,) = (run / "submission").iterdir()
    dev = [*nlvr2, "--split", "dev"]
    assert main(["score", *dev, "--check-submission", str(submission)]) == 0
    assert main(["score", *dev, "--predictions", str(submission), "--json", str(scores)]) == 0
    assert json.loads(scores.read_text(encoding="utf-8"))["metrics"] == metrics
