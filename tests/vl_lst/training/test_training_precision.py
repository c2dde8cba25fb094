"""Training in bfloat16: losses near those of float32, exact resuming, and evaluation anywhere."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_run import TinyWorld

from vl_lst import devices
from vl_lst.cli import main
from vl_lst.run import load_run
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training import distributed
from vl_lst.training.distributed import with_same_precisions
from vl_lst.training.session import train

# torch warns if a norm's weight is float32, as trainable weights are.
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
FILES = ("checkpoints/last/model.safetensors", "metrics.jsonl")
BF16 = {"training__precision": "bf16", "backbone__precision": "bf16"}


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("head", ["classify", "generate"])
def test_losses_agree_with_those_in_float32(world: TinyWorld, tmp_path: Path, head: str) -> None:
    settings: dict[str, Any] = {"head": head, "method__options__dropout": 0.0}
    train(world.recipe(**settings), tmp_path / "fp32")
    train(world.recipe(**settings, **BF16), tmp_path / "bf16")
    exact, rounded = losses(tmp_path / "fp32"), losses(tmp_path / "bf16")
    assert rounded == pytest.approx(exact, rel=0.02)
    assert rounded != exact


@pytest.mark.parametrize("method", ["lst", "full"])
def test_a_resumed_run_is_bit_identical(world: TinyWorld, tmp_path: Path, method: str) -> None:
    recipe = world.recipe(
        method={"name": method, "options": {}},
        head="generate",
        training__checkpoint_every_steps=3,
        training__precision="bf16",
    )
    assert recipe.backbone.precision == ("fp32" if method == "full" else "bf16")
    train(recipe, tmp_path / "whole")

    def interrupt(done: int, total: int, note: str = "") -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "resumed", report=interrupt)
    train(recipe, tmp_path / "resumed", resume=True)
    for name in FILES:
        assert (tmp_path / "resumed" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes()


def test_all_processes_have_the_precisions_of_the_first(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines of one run may have different processors."""
    monkeypatch.setattr(distributed, "gather_object", lambda own: [("fp32", "fp32", False), *own])
    own = world.recipe(**BF16, training__tf32=True)
    assert with_same_precisions(own) == world.recipe(training__tf32=False)


def test_a_run_chooses_its_precision_once(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is resumed by the same command and evaluated where bf16 is not native."""
    out = tmp_path / "run"
    settings = ("--quiet", "--set", "training.precision=auto", "--set", "training.epochs=1")
    arguments = world.train_arguments(out, *settings)
    cpu = tmp_path / "cpuinfo"
    monkeypatch.setattr(devices, "CPU_INFO", cpu)
    cpu.write_text("flags: avx512_bf16\n")
    assert main(arguments) == 0
    record = read_record(RunDirectory(out))
    assert record is not None
    for recipe in (record.recipe, RunDirectory(out).recipe().model_dump(mode="json")):
        assert recipe["training"]["precision"] == recipe["backbone"]["precision"] == "bf16"
        assert recipe["training"]["tf32"] is False
    cpu.write_text("flags: avx2\n")
    assert main([*arguments, "--resume"]) == 0
    run = load_run(out)
    assert run.recipe.training.precision == "bf16"
    assert main(["evaluate", str(out), "--split", "val2014", "--quiet"]) == 0
