"""`vl-lst profile` of a backbone that reads images."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_run import TinyWorld
from tiny_vision_language import NUM_QUERIES

from vl_lst.cli import main


def command(world: TinyWorld, *more: str) -> list[str]:
    return ["profile", "--backbone", str(world.backbone), "--batch-size", "2", "--quiet", *more]


def profiled(world: TinyWorld, out: Path, *more: str) -> dict[str, Any]:
    small = ("--methods", "lst,full", "--set", "lst.reduction=2", "--json", str(out))
    assert main(command(world, *small, *more)) == 0
    result: dict[str, Any] = json.loads(out.read_text())
    return result


@pytest.mark.parametrize("how", [["--dry-run"], ["--steps", "1", "--device", "cpu"]])
def test_the_backbone_reads_tokens_of_its_own_image_encoder(
    reader_world: TinyWorld, tmp_path: Path, how: list[str]
) -> None:
    result = profiled(reader_world, tmp_path / "cost.json", *how)
    workload = result["workload"]
    assert (workload["image_tokens"], workload["channels"]) == (NUM_QUERIES, 16)
    assert not workload["has_visual_embedding"]
    ladder, full = (method["saved_bytes"] for method in result["methods"])
    assert "visual embedding" not in ladder | full
    assert not any(part.startswith("backbone") for part in ladder)
    assert full["backbone encoder"] > 0
    more_images = profiled(reader_world, tmp_path / "more.json", *how, "--images", "2")
    for one, two in zip(result["methods"], more_images["methods"], strict=True):
        assert two["saved_bytes"]["total"] > one["saved_bytes"]["total"]


def test_a_recipe_may_add_a_visual_embedding(reader_world: TinyWorld, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("visual:\n  embedding: learned\n  pooled_grid: 6\n")
    more = ("--dry-run", "--recipe", str(recipe), "--channels", "8")
    result = profiled(reader_world, tmp_path / "cost.json", *more)
    assert result["workload"]["has_visual_embedding"]
    assert all(method["saved_bytes"]["visual embedding"] for method in result["methods"])


@pytest.mark.parametrize("option", ["--image-tokens", "--channels", "--grid"])
def test_other_shapes_of_features_are_refused(
    reader_world: TinyWorld, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(reader_world, "--dry-run", option, "4")) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert f"reads images as {NUM_QUERIES} tokens of 16 channels" in printed.replace("│ ", "")
