"""Initial weights of a method: computed once, on the training device, the same everywhere."""

from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_run import TinyWorld

from vl_lst.training import initialisation
from vl_lst.training.initialisation import initialise


class Model(torch.nn.Module):
    """Model that records the devices it is moved to."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.moves: list[str] = []

    def to(self, device: Any) -> "Model":  # type: ignore[override]
        self.moves.append(str(device))
        return self


def samples() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        yield torch.tensor([[1, 2]]), torch.tensor([[3]])


def process(device: str, *, is_main: bool = True, num: int = 1) -> Any:
    return SimpleNamespace(device=torch.device(device), is_main_process=is_main, num_processes=num)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Calls of the method, and broadcast tensors."""
    seen: list[Any] = []

    class Method(initialisation.get_method("lst").__class__):  # type: ignore[misc]
        def initialise(self, model: Any, options: Any, samples: Any) -> None:
            seen.append(("initialised", next(iter(samples))[0].device.type))
            model.weight.data.fill_(7)

    monkeypatch.setattr(initialisation, "get_method", lambda _name: Method())
    monkeypatch.setattr(initialisation, "fail_together", lambda _processes: nullcontext())
    monkeypatch.setattr(initialisation, "broadcast", lambda tensor: seen.append(tensor.tolist()))
    return seen


def test_it_runs_on_the_training_device(world: TinyWorld, calls: list[Any]) -> None:
    model = Model()
    built: Any = SimpleNamespace(model=model, stored={"weight": model.weight})
    initialise(world.recipe(), built, samples(), process("meta"))
    assert calls == [("initialised", "meta")]
    assert model.moves == ["meta", "cpu"]


def test_one_process_computes_and_broadcasts(world: TinyWorld, calls: list[Any]) -> None:
    for is_main in (True, False):
        model = Model()
        built: Any = SimpleNamespace(model=model, stored={"weight": model.weight})
        initialise(world.recipe(), built, samples(), process("cpu", is_main=is_main, num=2))
    assert calls == [("initialised", "cpu"), [7.0, 7.0], [0.0, 0.0]]


def test_methods_without_initialisation_are_skipped(world: TinyWorld) -> None:
    model = Model()
    built: Any = SimpleNamespace(model=model, stored={"weight": model.weight})
    recipe = world.recipe(method__name="bitfit")
    initialise(recipe, built, samples(), process("cpu", num=2))
    assert model.moves == []
