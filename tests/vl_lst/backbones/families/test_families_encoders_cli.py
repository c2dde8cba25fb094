"""Runs on an encoder without a decoder, as a user starts them."""

import json
from pathlib import Path

import pytest
from tiny_backbones import save_backbone, tiny_backbones
from tiny_run import TinyWorld

from vl_lst.cli import main
from vl_lst.training.session import train

OPTIONS: dict[str, dict[str, object]] = {
    "lst": {"reduction": 2},
    "side": {"reduction": 2},
    "full": {},
    "prompt": {"tokens": 3, "middle_width": 8},
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    save_backbone(tiny_backbones()["bert"], folder)
    return folder


def arguments(
    world: TinyWorld, bert: Path, out: Path, *more: str, head: str = "classify"
) -> list[str]:
    # The backbone has 40 positions.
    limit = ["--set", "data.max_prompt_tokens=20"]
    chosen = ["--backbone", str(bert), "--head", head]
    return world.train_arguments(out, "--quiet", *limit, *chosen, *more)


def test_a_run_trains_evaluates_answers_and_is_listed(
    world: TinyWorld, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "lst"
    assert main(arguments(world, bert, out, "--set", "training.epochs=3")) == 0
    record = json.loads((out / "record.json").read_text())
    saved = record["memory_bytes"]["saved_for_backward"]
    assert saved["side encoder"] > 0
    assert not any("decoder" in part or "backbone" in part for part in saved)
    capsys.readouterr()
    assert main(["evaluate", str(out), "--split", "val2014"]) == 0
    assert "accuracy" in capsys.readouterr().out
    question = ["--image", str(world.image("red")), "--question", "what color is it?"]
    weights = ["--encoder-weights", str(world.encoder)]
    assert main(["predict", str(out), *question, *weights]) == 0
    assert capsys.readouterr().out.strip()
    page = tmp_path / "page.html"
    assert main(["leaderboard", str(tmp_path), "--include-dirty", "--out", str(page)]) == 0
    assert "lst" in capsys.readouterr().out


class InterruptedRunError(Exception):
    """Raised by a progress report."""


@pytest.mark.parametrize("method", OPTIONS)
def test_an_interrupted_run_resumes_to_the_same_weights(
    world: TinyWorld, bert: Path, tmp_path: Path, method: str
) -> None:
    recipe = world.recipe(
        backbone__name=str(bert),
        head="classify",
        method__name=method,
        method__options=OPTIONS[method],
        data__max_prompt_tokens=20,
        training__checkpoint_every_steps=2,
    )

    def interrupt(done: int, total: int, what: str = "") -> None:
        if done == 5:
            raise InterruptedRunError

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, whole)
    with pytest.raises(InterruptedRunError):
        train(recipe, parts, report=interrupt)
    train(recipe, parts, resume=True)
    for name in ("metrics.jsonl", "checkpoints/last/model.safetensors"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_a_head_that_generates_is_refused_before_data_are_read(
    world: TinyWorld, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    (tmp_path / "empty").mkdir()
    missing = ["--data-root", str(tmp_path / "empty")]
    assert main(arguments(world, bert, out, *missing, head="generate")) == 1
    message = capsys.readouterr().err
    assert "head.vqa: found generate, and the backbone" in message
    assert "expected classify (--head classify)" in message
    assert not out.exists()
    captions = [*missing, "--task", "caption"]
    assert main(arguments(world, bert, out, *captions, head="generate")) == 1
    assert "caption has no head but generate, and the backbone" in capsys.readouterr().err


def test_a_profile_measures_a_head_that_classifies(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "profile.json"
    shape = ["--text-tokens", "4", "--image-tokens", "4", "--grid", "0", "--channels", "8"]
    command = ["profile", "--backbone", str(bert), "--methods", "lst,full", *shape, "--quiet"]
    small = ["--precision", "fp32", "--set", "lst.reduction=2", "--json", str(document)]
    reports = []
    for more in (["--dry-run"], ["--steps", "2", "--device", "cpu"]):
        assert main([*command, *small, *more]) == 0
        assert "head: classify, from 3,129 answers" in capsys.readouterr().out
        reports.append(json.loads(document.read_text())["methods"])
    for estimated, measured in zip(*reports, strict=True):
        assert estimated["head"] == {"kind": "classify", "answers": 3129}
        for key in ("trainable", "total", "parameter_bytes", "saved_bytes"):
            assert estimated[key] == measured[key], key
