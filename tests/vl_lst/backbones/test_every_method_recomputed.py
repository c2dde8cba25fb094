"""Gradients of every transfer method when blocks run again in the backward pass."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from guide_methods import guide_methods
from tiny_backbones import one_of_each_family, tiny_backbones
from tiny_batches import tiny_batch
from tiny_methods import attach, method_named, variants_on
from torch import Tensor, nn

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.methods import method_names
from vl_lst.training.saved_bytes import bytes_saved_for_backward

TINY = tiny_backbones()
VARIED = ("t5", "mbart", "bert")
# Every method on one backbone of each family, and on the others one that trains every weight.
FIRST = set(one_of_each_family())
CASES = [
    (name, method)
    for name in TINY
    for method in (
        *(method_names() if name in FIRST else ("full",)),
        *(guide_methods() if name == "t5" else ()),
        *(variants_on(name) if name in VARIED else ()),
    )
    if "recompute" in method_named(method).options.model_fields
]
TOLERANCE = 1e-9  # relative, in float64

MakeTiny = Callable[..., FrozenBackbone]


def trained(
    make_tiny: MakeTiny, name: str, method: str, *, recompute: bool
) -> tuple[Any, dict[str, nn.Parameter]]:
    """Return a model in float64 in training mode, with dropout, away from its initial values."""
    backbone = make_tiny(name)
    head = "classify" if not backbone.has_decoder or backbone.reads_images else "generate"
    model, trainable = attach(method, backbone, head, dropout=0.2, recompute=recompute)
    generator = torch.Generator().manual_seed(5)
    for parameter in trainable.values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.double().train(), trainable


def loss_of(model: Any) -> Tensor:
    torch.manual_seed(7)
    loss: Tensor = model(tiny_batch(model.backbone))
    return loss


@pytest.mark.parametrize(("name", "method"), CASES)
def test_gradients_are_those_without_recomputing(
    make_tiny: MakeTiny, name: str, method: str
) -> None:
    """Positions that a hook limits to the text must be limited in the backward pass, too."""
    gradients = []
    for recompute in (False, True):
        model, trainable = trained(make_tiny, name, method, recompute=recompute)
        loss_of(model).backward()
        gradients.append({key: p.grad for key, p in trainable.items() if p.grad is not None})
    kept, again = gradients
    assert kept.keys() == again.keys()
    for key, gradient in kept.items():
        difference = (again[key] - gradient).norm()
        assert difference <= TOLERANCE * gradient.norm(), key


@pytest.mark.parametrize(("name", "method"), [case for case in CASES if case[0] in VARIED])
def test_recomputing_saves_fewer_bytes_for_the_backward_pass(
    make_tiny: MakeTiny, name: str, method: str
) -> None:
    totals = []
    for recompute in (False, True):
        model, _ = trained(make_tiny, name, method, recompute=recompute)
        totals.append(bytes_saved_for_backward(model, partial(loss_of, model))["total"])
    kept, again = totals
    assert again < kept


def test_a_copy_of_a_model_recomputes_its_own_blocks(make_tiny: MakeTiny) -> None:
    model, trainable = trained(make_tiny, "t5", "full", recompute=True)
    loss_of(model)
    copied = deepcopy(model)
    loss_of(copied).backward()
    own = dict(copied.named_parameters())
    assert all(own[key].grad is not None for key in trainable)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_second_backward_pass_of_a_kept_graph_adds_the_same_gradients(
    make_tiny: MakeTiny,
) -> None:
    model, trainable = trained(make_tiny, "t5", "full", recompute=True)
    loss = loss_of(model)
    loss.backward(retain_graph=True)
    once = {key: p.grad.clone() for key, p in trainable.items() if p.grad is not None}
    loss.backward()
    for key, gradient in once.items():
        torch.testing.assert_close(trainable[key].grad, 2 * gradient, rtol=1e-9, atol=0.0)
