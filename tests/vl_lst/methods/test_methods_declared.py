"""A method with an invalid declaration is refused with one message."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from guide_methods import guide_methods
from torch import nn

import vl_lst.methods
from eval.recipe_fields import FORMER_OPTIONS
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.errors import ModelError, RecipeError
from vl_lst.methods import Method, get_method, method_names
from vl_lst.methods._joint import JointMethod, JointOptions
from vl_lst.methods.lst import LadderSideTuning
from vl_lst.methods.vl_pet import VlPet
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.joint import JointModel
from vl_lst.recipes.building import attach_method

VISUAL = VisualConfig(channels=8, tokens=9, pooled_grid=2)
Made = Callable[[object], None]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Made:
    """Return a function that installs a method under the name `toy`."""

    def make(method: object) -> None:
        module = ModuleType("vl_lst.methods.toy")
        module.METHOD = method  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "vl_lst.methods.toy", module)
        monkeypatch.setattr(vl_lst.methods, "method_names", lambda: ["toy"])

    return make


def attach(backbone: FrozenBackbone) -> tuple[Any, dict[str, nn.Parameter]]:
    heads = {DEFAULT_TASK: HeadConfig(kind="generate")}
    return attach_method("toy", {}, backbone, visual=VISUAL, heads=heads, precision="fp32")


class Tunes(JointMethod[JointOptions]):
    """Method that trains the parameters it is given."""

    def __init__(self, choose: Callable[[JointModel], Iterator[Any]]) -> None:
        self._choose = choose

    def tuned(self, model: JointModel) -> Iterator[Any]:
        return self._choose(model)


class Declares(LadderSideTuning):
    """Ladder that changes its declaration."""

    def __init__(self, change: Callable[[Any, dict[str, nn.Parameter]], None]) -> None:
        self._change = change

    def trainable(self, model: Any) -> dict[str, nn.Parameter]:
        declared = super().trainable(model)
        self._change(model, declared)
        return declared


def first_norm(model: JointModel) -> nn.Parameter:
    return model.backbone.model.encoder.final_layer_norm.weight


@pytest.mark.parametrize(
    ("choose", "words"),
    [
        (lambda model: iter(()), "yields nothing"),
        (lambda model: iter(["shared.weight"]), "yields something that is not a parameter"),
        (
            lambda model: iter([nn.Parameter(torch.ones(1))]),
            "yields something that is not a parameter",
        ),
    ],
)
def test_tuning_nothing_or_a_foreign_parameter_is_refused(
    toy: Made, make_backbone: Callable[..., FrozenBackbone], choose: Any, words: str
) -> None:
    toy(Tunes(choose))
    with pytest.raises(ModelError, match=words):
        attach(make_backbone())


def test_weights_that_would_train_in_bfloat16_are_refused(
    toy: Made, make_backbone: Callable[..., FrozenBackbone]
) -> None:
    toy(Tunes(lambda model: iter([first_norm(model)])))
    assert len(attach(make_backbone())[1]) > 1
    with pytest.raises(ModelError, match=r"'backbone.*' in torch.bfloat16; what trains must be"):
        attach(FrozenBackbone(make_backbone().model.to(torch.bfloat16)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m, d: d.update({"side": nn.Parameter(torch.ones(1))}), "no parameter of the model"),
        (
            lambda m, d: d.update({k: p for k, p in m.named_parameters() if "backbone" in k}),
            "'backbone.*runs without gradients",
        ),
        (lambda m, d: d.pop("visual.features.weight", None) or d.clear(), "visual embedding"),
    ],
)
def test_declaring_what_cannot_train_is_refused(
    toy: Made, make_backbone: Callable[..., FrozenBackbone], change: Any, words: str
) -> None:
    toy(Declares(change))
    with pytest.raises(ModelError, match=f"method toy declares as trainable.*{words}"):
        attach(make_backbone())


@pytest.mark.parametrize("method", [None, Tunes, "lst"])
def test_a_file_without_a_method_is_refused(toy: Made, method: object) -> None:
    toy(method)
    with pytest.raises(
        ModelError, match=r"vl_lst/methods/toy\.py: found .*METHOD.*expected METHOD"
    ):
        get_method("toy")


def test_a_file_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy.py").write_text("def broken(:\n")
    monkeypatch.setattr(vl_lst.methods, "__path__", [*vl_lst.methods.__path__, str(tmp_path)])
    with pytest.raises(ModelError, match=r"toy\.py cannot be imported: .*line 1"):
        get_method("toy")


def test_an_underscore_in_a_files_name_is_a_hyphen_in_the_methods() -> None:
    assert "vl-pet" in method_names()
    assert isinstance(get_method("vl-pet"), VlPet)
    with pytest.raises(RecipeError, match=r"no method 'vl_pet': expected one of: .*vl-pet"):
        get_method("vl_pet")


@pytest.mark.parametrize("name", FORMER_OPTIONS)
def test_options_that_earlier_versions_lacked_exist(name: str) -> None:
    """Their former values are filled in when a run of an earlier version is loaded."""
    assert (
        FORMER_OPTIONS[name].items()
        <= get_method(name)
        .options.model_validate(FORMER_OPTIONS[name])
        .model_dump(mode="json")
        .items()
    )


@pytest.mark.parametrize("method", guide_methods().values(), ids=guide_methods())
def test_the_guides_examples_declare_what_trains(
    toy: Made,
    make_backbone: Callable[..., FrozenBackbone],
    make_batch: Callable[..., Batch],
    method: Method,
) -> None:
    toy(method)
    model, trainable = attach(make_backbone())
    model(make_batch()).backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == set(trainable)
    added = ("rescale.factor", "gates.score.weight")
    assert any(name.endswith(added) for name in trainable)
