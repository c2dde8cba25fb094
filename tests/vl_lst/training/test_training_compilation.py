"""Compilation of the blocks that train; without CUDA, by a backend that generates no code."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import TinyWorld

from eval.run_files import RunRecord
from vl_lst.errors import RecipeError
from vl_lst.training import session, trainer
from vl_lst.training.compilation import compile_blocks
from vl_lst.training.session import train

WEIGHTS = "checkpoints/last/model.safetensors"


def trained(
    world: TinyWorld, out: Path, method: str, *, recompute: bool, **settings: object
) -> RunRecord:
    """Train a few steps of generation, with dropout."""
    recipe = world.recipe(
        head="generate",
        method={"name": method, "options": {"recompute": recompute}},
        training__epochs=None,
        training__steps=3,
        **settings,
    )
    return train(recipe, out)


# torch's tracer reads the gradient of every tensor, and hides its own warnings otherwise.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize(("method", "recompute"), [("lst", False), ("lst", True), ("full", True)])
def test_compiled_blocks_compute_the_same(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, recompute: bool
) -> None:
    """Also with blocks that run again, and by the same names in checkpoints."""
    called: list[str] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> object:
        called.append("compiled")
        return graph.forward

    monkeypatch.setattr(session, "require_compilable", lambda recipe, device: None)
    monkeypatch.setattr(trainer, "compile_blocks", partial(compile_blocks, backend=backend))
    plain = trained(world, tmp_path / "plain", method, recompute=recompute)
    assert not called
    compiled = trained(
        world, tmp_path / "compiled", method, recompute=recompute, training__compile=True
    )
    assert called
    assert compiled.scores == plain.scores
    # Bytes are counted without compilation.
    assert plain.memory_bytes is not None
    assert compiled.memory_bytes is not None
    saved = compiled.memory_bytes.saved_for_backward
    assert saved == plain.memory_bytes.saved_for_backward
    expected = load_file(tmp_path / "plain" / WEIGHTS)
    found = load_file(tmp_path / "compiled" / WEIGHTS)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7, msg=name)


def test_it_is_refused_without_cuda_and_without_blocks(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match=r"training\.compile: found true, .* on cpu.*false"):
        trained(world, tmp_path / "cpu", "lst", recompute=False, training__compile=True)
    assert not (tmp_path / "cpu").exists()
    monkeypatch.setattr(session, "require_compilable", lambda recipe, device: None)
    with pytest.raises(RecipeError, match="trains no blocks to compile"):
        trained(world, tmp_path / "none", "unipt", recompute=False, training__compile=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_ladder_trains_on_cuda(world: TinyWorld, tmp_path: Path) -> None:
    settings = {"training__device": "cuda", "training__compile": True}
    for recompute in (False, True):
        record = trained(world, tmp_path / f"{recompute}", "lst", recompute=recompute, **settings)
        assert record.status == "success"
