"""Whether blocks are recomputed in the backward pass, if the recipe leaves it to the memory."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_run import TinyWorld
from torch import nn

from eval.run_files import RunRecord
from vl_lst.models.batch import Batch
from vl_lst.models.vision_language_model import VisionLanguageModel
from vl_lst.runs.directory import RunDirectory
from vl_lst.training import recompute_policy
from vl_lst.training.recompute_policy import RecomputePolicy
from vl_lst.training.session import train

WEIGHTS = "checkpoints/last/model.safetensors"
PLENTY = 2**40


def trained(
    world: TinyWorld, out: Path, *, recompute: object, head: str = "generate", method: str = "lst"
) -> RunRecord:
    """Train a few steps with dropout and the option `recompute`."""
    recipe = world.recipe(
        head=head,
        method={"name": method, "options": {"recompute": recompute}},
        training__epochs=None,
        training__steps=4,
    )
    return train(recipe, out)


def total(record: RunRecord) -> int:
    assert record.memory_bytes is not None
    assert record.memory_bytes.saved_for_backward is not None
    return record.memory_bytes.saved_for_backward["total"]


@pytest.fixture(scope="module", params=["lst", "full"])
def fixed(
    request: pytest.FixtureRequest, world: TinyWorld, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, dict[bool, RunRecord]]:
    """Return a method and its runs with everything kept (`False`) and recomputed (`True`)."""
    folder = tmp_path_factory.mktemp("fixed")
    runs = {
        value: trained(world, folder / f"{value}", recompute=value, method=request.param)
        for value in (False, True)
    }
    assert (folder / "False" / WEIGHTS).read_bytes() == (folder / "True" / WEIGHTS).read_bytes()
    return request.param, folder, runs


@pytest.mark.parametrize("available", [PLENTY, 2**16, None])
def test_auto_keeps_everything_where_it_fits(
    fixed: Any,
    world: TinyWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    available: int | None,
) -> None:
    """The numbers are the same, and the record and the log tell what was done."""
    method, folder, runs = fixed
    monkeypatch.setattr(recompute_policy, "memory_available", lambda device: available)
    record = trained(world, tmp_path / "run", recompute="auto", method=method)
    recomputes = available != PLENTY
    assert record.recomputes is recomputes
    assert record.recipe["method"]["options"]["recompute"] == "auto"
    assert total(record) == total(runs[recomputes])
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (folder / "True" / WEIGHTS).read_bytes()
    logged = (tmp_path / "run" / "log.txt").read_text()
    assert ("blocks are recomputed" in logged) is recomputes
    assert "(method.options.recompute: auto)" in logged


def test_the_estimate_covers_the_longest_batch(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured of two short passes holds for a whole batch, for every head."""
    estimates: list[int] = []
    estimate = RecomputePolicy._needed

    def noted(*arguments: Any) -> int:
        estimates.append(estimate(*arguments))
        return estimates[-1]

    monkeypatch.setattr(RecomputePolicy, "_needed", noted)
    monkeypatch.setattr(recompute_policy, "memory_available", lambda device: PLENTY)
    for head in ("classify", "generate"):
        record = trained(world, tmp_path / head, recompute="auto", head=head)
        memory = record.memory_bytes
        assert memory is not None
        state = memory.gradients + memory.optimizer_state
        saved = (estimates[-1] - state) / (1 + recompute_policy.TEMPORARY_SHARE)
        # Equal prompts of a batch share what the estimate counts for each.
        assert total(record) <= saved <= 2 * total(record)


def test_a_step_that_does_not_fit_runs_again_with_the_same_numbers(
    fixed: Any, world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    method, folder, runs = fixed
    monkeypatch.setattr(recompute_policy, "memory_available", lambda device: PLENTY)
    failed: list[str] = []

    forward = VisionLanguageModel.forward

    def with_little_memory(model: Any, batch: Any, loss_average: str = "examples") -> Any:
        loss = forward(model, batch, loss_average)
        is_step = len(batch) == 8
        if is_step and not failed and torch.is_grad_enabled():
            failed.append("once")
            loss.backward()  # gradients and random numbers of the attempt must not count
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return loss

    # As on a CUDA device.
    monkeypatch.setattr(RecomputePolicy, "may_fall_back", property(lambda self: self._decides))
    monkeypatch.setattr(VisionLanguageModel, "forward", with_little_memory)
    with caplog.at_level(logging.INFO):
        record = trained(world, tmp_path / "run", recompute="auto", method=method)
    assert failed
    assert record.recomputes is True
    assert total(record) == total(runs[True])
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (folder / "True" / WEIGHTS).read_bytes()
    assert "a step that keeps everything did not fit" in caplog.text


def test_a_resumed_run_decides_again(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "head": "generate",
        "method__options__recompute": "auto",
        "training__checkpoint_every_steps": 3,
    }
    monkeypatch.setattr(recompute_policy, "memory_available", lambda device: PLENTY)
    whole = train(world.recipe(**settings), tmp_path / "whole")
    out = tmp_path / "resumed"

    def interrupt(done: int, total: int, note: str = "") -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(world.recipe(**settings), out, report=interrupt)
    monkeypatch.setattr(recompute_policy, "memory_available", lambda device: None)
    resumed = train(RunDirectory(out).recipe(), out, resume=True)
    assert (whole.recomputes, resumed.recomputes) == (False, True)
    assert total(resumed) < total(whole)
    for name in (WEIGHTS, "metrics.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_longer_batches_run_again_from_the_first_that_does_not_fit(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each length is estimated once; what was kept before was within the memory."""
    seen: list[tuple[int, ...]] = []

    def needed(_self: RecomputePolicy, batch: Batch) -> int:
        assert batch.labels_BL is not None
        seen.append((*batch.prompt_ids_UT.shape[1:], *batch.labels_BL.shape[1:]))
        return PLENTY if len(seen) == 3 else 1

    monkeypatch.setattr(RecomputePolicy, "_needed", needed)
    monkeypatch.setattr(recompute_policy, "memory_available", lambda device: PLENTY)
    built = SimpleNamespace(model=nn.Module())
    built.model.device = torch.device("cpu")
    built.model.recompute = False
    recipe = world.recipe(method__options__recompute="auto")
    chosen = RecomputePolicy(recipe, built, 1, {"vqa": "examples"})  # type: ignore[arg-type]
    for shape in ((5, 3), (4, 3), (5, 2), (4, 4), (5, 4), (9, 9)):
        chosen.prepare(
            Batch(
                prompt_ids_UT=torch.ones(1, shape[0], dtype=torch.long),
                prompt_index_B=torch.zeros(1, dtype=torch.long),
                labels_BL=torch.ones(1, shape[1], dtype=torch.long),
                task="vqa",
            )
        )
        assert built.model.recompute is (shape in ((5, 4), (9, 9)))
    assert seen == [(5, 3), (4, 4), (5, 4)]
    assert chosen.is_on
