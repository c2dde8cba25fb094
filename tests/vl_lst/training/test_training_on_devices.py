"""Runs on a device: interrupted, in bf16, on stored states, quantized, and answering."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from on_devices import DEVICES
from safetensors.torch import load_file
from tiny_run import TinyWorld

from vl_lst.devices import native_bf16
from vl_lst.extraction.states import extract_states
from vl_lst.run import load_run
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training.session import train

STEPS = 8
# CUDA adds up gradients of equal rows in an order that changes from run to run.
TOLERANCE = {"cpu": 0.0, "cuda": 1e-3}


def losses(out: Path) -> torch.Tensor:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([line["loss"] for line in lines if "loss" in line])


def require_close(found: torch.Tensor, expected: torch.Tensor, device: str) -> None:
    tolerance = TOLERANCE[device]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture
def recipe(world: TinyWorld) -> Callable[..., Any]:
    def make(device: str, **overrides: object) -> Any:
        settings: dict[str, object] = {
            "training__device": device,
            "training__epochs": None,
            "training__steps": STEPS,
            "training__checkpoint_every_steps": 2,
            "training__precision": "fp32",
            "training__workers": 0,
            "backbone__precision": "fp32",
            "method__options__dropout": 0.2,
            "head": "classify",
        }
        return world.recipe(**settings | overrides)

    return make


class Interruption(BaseException):
    """Stands for a signal: nothing in training handles it."""


@pytest.mark.parametrize("device", DEVICES)
def test_an_interrupted_run_is_resumed_where_it_stopped(
    recipe: Callable[..., Any], device: str, tmp_path: Path
) -> None:
    """With dropout, whose random state is the device's own."""

    def interrupt(step: int, _total: int, _note: str = "") -> None:
        if step == 5:
            raise Interruption

    chosen = recipe(device, training__log_every_steps=1)
    train(chosen, tmp_path / "whole")
    with pytest.raises(Interruption):
        train(chosen, tmp_path / "parts", report=interrupt)
    train(chosen, tmp_path / "parts", resume=True)
    require_close(losses(tmp_path / "parts"), losses(tmp_path / "whole"), device)
    weights = [
        load_file(tmp_path / name / "checkpoints/last/model.safetensors")
        for name in ("whole", "parts")
    ]
    for name, expected in weights[0].items():
        require_close(weights[1][name], expected, device)


@pytest.mark.parametrize("device", DEVICES)
def test_the_record_names_the_device_and_its_precision(
    recipe: Callable[..., Any], device: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train(recipe(device, training__precision="auto", backbone__precision="auto"), out)
    expected = "bf16" if native_bf16(torch.device(device)) else "fp32"
    trained = RunDirectory(out).recipe()
    assert trained.training.precision == trained.backbone.precision == expected
    record = read_record(RunDirectory(out))
    assert record is not None
    assert (record.device or "").startswith(device)
    assert record.memory_bytes is not None
    assert (record.memory_bytes.peak_allocated is not None) == (device == "cuda")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("head", ["classify", "generate"])
def test_stored_states_train_as_the_backbone_does(
    recipe: Callable[..., Any], head: str, device: str, tmp_path: Path
) -> None:
    chosen = recipe(device, head=head)
    extract_states(chosen, tmp_path / "states.h5")
    stored = recipe(device, head=head, states=str(tmp_path / "states.h5"))
    for name, each in {"backbone": chosen, "states": stored}.items():
        train(each, tmp_path / name)
    torch.testing.assert_close(
        losses(tmp_path / "states"), losses(tmp_path / "backbone"), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_a_quantized_backbone_trains_and_answers(
    recipe: Callable[..., Any], world: TinyWorld, precision: str, device: str, tmp_path: Path
) -> None:
    train(recipe(device, backbone__precision=precision, head="generate"), tmp_path / "run")
    assert torch.isfinite(losses(tmp_path / "run")).all()
    run = load_run(tmp_path / "run")
    answer = run.predict(world.image("red"), "what color is it?", encoder_weights=world.encoder)
    assert isinstance(answer.answer, str)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("initialisation", ["fisher", "principal"])
def test_initial_weights_are_computed_on_the_device(
    recipe: Callable[..., Any], initialisation: str, device: str, tmp_path: Path
) -> None:
    options = {
        "training__steps": 1,
        "method__options__initialisation": initialisation,
        "method__options__rungs": "linear",
        "method__options__initialisation_samples": 2,
    }
    train(recipe(device, **options), tmp_path / "run")
    assert torch.isfinite(losses(tmp_path / "run")).all()
