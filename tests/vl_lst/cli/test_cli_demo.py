"""`vl-lst demo`: the scores that it prints and writes."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vl_lst.cli import main
from vl_lst.demo import run
from vl_lst.errors import TrainingError
from vl_lst.methods import method_names

ACCURACY = {"vqa": 70.0, "gqa": 60.0, "nlvr2": 0.5, "caption": 3.0}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], list[int], str]]:
    """Methods, seeds and backbone passed to the demo, whose scores rise by a tenth per seed."""
    made: list[tuple[list[str], list[int], str]] = []

    def train_nothing(
        out: Path, _stage: Any, methods: list[str], seeds: list[int], backbone: str
    ) -> Any:
        made.append((methods, seeds, backbone))
        scores = {
            task: {
                name: [value * (1 + seed / 10) for seed in seeds] for name in (*methods, "blind")
            }
            for task, value in ACCURACY.items()
        }
        return run.DemoResult(scores, 1.25, out, out, out / methods[0], out / "examples.png")

    monkeypatch.setattr(run, "run_demo", train_nothing)
    monkeypatch.setattr(
        importlib.import_module("vl_lst.cli.demo"),
        "build_page",
        lambda *_arguments, **_options: (None, b"a page"),
    )
    return made


def test_several_seeds_are_a_mean_with_its_deviation(
    calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "demo.json"
    assert main(["demo", "--out", str(tmp_path), "--seeds", "0,2", "--json", str(document)]) == 0
    assert calls == [(["lst"], [0, 2], "demo")]
    result = json.loads(document.read_text())
    assert result["tasks"]["vqa"] == {"lst": 77.0, "blind": 77.0}
    assert result["standard_deviations"]["vqa"]["lst"] == pytest.approx(7 * 2**0.5)
    assert (result["seeds"], result["seconds"]) == ([0, 2], 1.2)
    assert "77.00 ± 9.90" in capsys.readouterr().out


def test_one_seed_has_no_deviation(calls: list[Any], tmp_path: Path) -> None:
    document = tmp_path / "demo.json"
    arguments = ["demo", "--out", str(tmp_path), "--methods", "all", "--json", str(document)]
    assert main(arguments) == 0
    ((methods, seeds, _),) = calls
    assert methods[0] == "lst", "the picture shows its examples"
    assert sorted(methods) == method_names()
    assert seeds == [0]
    assert set(json.loads(document.read_text())["standard_deviations"]["gqa"].values()) == {None}


def test_a_failed_run_is_named_and_the_others_are_shown(
    calls: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train_nothing = run.run_demo

    def fail_one(*arguments: Any) -> run.DemoResult:
        result = train_nothing(*arguments)
        for scores in result.scores.values():
            scores["full"] = []
        return replace(result, failures={"full": TrainingError("the loss is NaN")})

    monkeypatch.setattr(run, "run_demo", fail_one)
    document = tmp_path / "demo.json"
    arguments = ["--out", str(tmp_path), "--methods", "lst,full", "--json", str(document)]
    assert main(["demo", *arguments]) == 1
    result = json.loads(document.read_text())
    assert set(result["tasks"]["vqa"]) == {"lst", "blind"}
    assert result["failures"] == {"full": "the loss is NaN"}
    printed = capsys.readouterr()
    assert "failed" in printed.out
    assert "runs that failed: 1 (full: the loss is NaN). The table shows the others." in printed.err


def test_the_backbone_can_be_chosen(calls: list[Any], tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path), "--backbone", "demo-image"]) == 0
    assert calls == [(["lst"], [0], "demo-image")]


@pytest.mark.parametrize("seeds", ["", "a", "0,", "-1", "0;1"])
def test_seeds_are_whole_numbers(calls: list[Any], seeds: str, tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path), "--seeds", seeds]) == 2
    assert not calls
