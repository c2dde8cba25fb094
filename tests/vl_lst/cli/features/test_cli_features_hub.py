"""`vl-lst features import`, `push` and `pull` with the Hub, and Parquet."""

import json
from pathlib import Path

import numpy as np
import pytest
from loopback_hub import LoopbackHub

from feature_extraction.store.store import FeatureStore
from vl_lst.cli import main


def test_from_parquet_on_the_hub_to_a_dataset_of_ones_own(
    hub: LoopbackHub, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared_data / "data" / "parquet_features"
    shards = {f"data/{path.name}": path.read_bytes() for path in folder.glob("*.parquet")}
    commit = hub.add("someone/adapter", shards, kind="datasets")
    x, y, report = tmp_path / "x.h5", tmp_path / "y.h5", tmp_path / "x.json"
    address = "hf://datasets/someone/adapter"
    assert main(["features", "import", address, "--out", str(x), "--encoder", "RN101"]) == 0
    store = FeatureStore(x)
    for image_id, total in json.loads((folder / "sums.json").read_text()).items():
        assert store[image_id].astype(np.float64).sum() == pytest.approx(total, abs=1e-9)

    assert main(["features", "info", str(x), "--json", str(report)]) == 0
    assert f"source      {address}, commit {commit[:12]}, 2 files" in capsys.readouterr().out
    assert json.loads(report.read_text())["sources"][0]["revision"] == commit

    assert main(["features", "push", str(x), "someone/mine", "--private", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith(f"{hub.endpoint}/datasets/someone/mine commit ")
    command = ["features", "pull", "someone/mine", "--out", str(y), "--json", str(report)]
    assert main([*command, "--quiet"]) == 0
    assert "10 images of 49 x 64" in capsys.readouterr().out
    assert y.read_bytes() == x.read_bytes()
    assert json.loads(report.read_text())["spec_sha256"] == store.spec.digest

    parquet, z = tmp_path / "parquet", tmp_path / "z.h5"
    command = ["features", "export", str(y), "--out", str(parquet), "--format", "parquet"]
    assert main(command) == 0
    assert main(["features", "import", str(parquet), "--out", str(z)]) == 0
    assert FeatureStore(z).spec == store.spec
    assert FeatureStore(z).read(list(store)).tobytes() == store.read(list(store)).tobytes()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["import", "hf://datasets/someone/none"], "the Hub has no repository someone/none"),
        (["import", "hf://models/x"], "expected hf://datasets/OWNER/NAME[/PATH][@REVISION]"),
        (["pull", "someone/none"], "the Hub has no repository someone/none"),
    ],
)
def test_errors_are_one_message(
    hub: LoopbackHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    message: str,
) -> None:
    assert main(["features", *command, "--out", str(tmp_path / "x.h5")]) == 1
    printed = capsys.readouterr().err
    assert message in " ".join(printed.split())
    assert "Traceback" not in printed
