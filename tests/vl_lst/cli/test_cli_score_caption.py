"""`vl-lst score --task caption` without Java, or when Java is killed."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from eval.caption import METRICS
from vl_lst.cli import main

KILLED = """#!{python}
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def arguments(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments that score 160 captions, with an empty PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    annotations = tmp_path / "data" / "coco" / "annotations"
    annotations.mkdir(parents=True)
    shutil.copy(golden / "coco" / "captions_nasty.json", annotations / "captions_val2014.json")
    results = golden / "coco" / "captions_nasty_plain_results.json"
    root = ["--data-root", str(tmp_path / "data"), "--split", "val2014"]
    return ["score", "--task", "caption", *root, "--predictions", str(results)]


@pytest.mark.parametrize(
    ("java", "reason"),
    [
        (None, "there is no `java` on the PATH: install a Java runtime"),
        (KILLED, "was killed by SIGKILL, possibly because memory ran out"),
    ],
)
def test_without_java_the_metrics_are_null_with_a_reason(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    java: str | None,
    reason: str,
) -> None:
    if java is not None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "java").write_text(java.format(python=sys.executable))
        (tmp_path / "bin" / "java").chmod(0o755)
    assert main([*arguments, "--json", str(tmp_path / "scores.json")]) == 0
    document = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert document["metrics"] == dict.fromkeys(METRICS)
    assert set(document["reasons"]) == set(METRICS)
    shown = capsys.readouterr()
    assert "caption val2014: 160 examples" in shown.out
    assert shown.err.count(reason) == 1


def test_a_required_metric_without_java_is_exit_code_1(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--require", "cider"]) == 1
    assert "error: cider cannot be computed: requires Java" in capsys.readouterr().err
