"""Initial weights of a method: computed once, on the device that trains, the same everywhere."""

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
    """Notes where it is moved to."""

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
def received(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the method was called with, and which tensors were sent around."""
    seen: list[Any] = []

    class Method(initialisation.get_method("lst").__class__):  # type: ignore[misc]
        def initialise(self, model: Any, options: Any, samples: Any) -> None:
            seen.append(("initialised", next(iter(samples))[0].device.type))
            model.weight.data.fill_(7)

    monkeypatch.setattr(initialisation, "get_method", lambda _name: Method())
    monkeypatch.setattr(initialisation, "fail_together", lambda _processes: nullcontext())
    monkeypatch.setattr(initialisation, "broadcast", lambda tensor: seen.append(tensor.tolist()))
    return seen


def test_it_runs_where_training_runs(world: TinyWorld, received: list[Any]) -> None:
    model = Model()
    built: Any = SimpleNamespace(model=model, trainable={"weight": model.weight})
    initialise(world.recipe(), built, samples(), process("meta"))
    assert received == [("initialised", "meta")]
    assert model.moves == ["meta", "cpu"]


def test_one_process_computes_and_all_receive(world: TinyWorld, received: list[Any]) -> None:
    for is_main in (True, False):
        model = Model()
        built: Any = SimpleNamespace(model=model, trainable={"weight": model.weight})
        initialise(world.recipe(), built, samples(), process("cpu", is_main=is_main, num=2))
    assert received == [("initialised", "cpu"), [7.0, 7.0], [0.0, 0.0]]


def test_methods_without_weights_of_their_own_cost_nothing(world: TinyWorld) -> None:
    model = Model()
    built: Any = SimpleNamespace(model=model, trainable={"weight": model.weight})
    recipe = world.recipe(method__name="bitfit")
    initialise(recipe, built, samples(), process("cpu", num=2))
    assert model.moves == []
