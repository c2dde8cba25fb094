"""Every transfer method trains and generates on a device as it does on the CPU."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from on_devices import DEVICES
from tiny_batches import tiny_batch
from tiny_methods import attach
from torch import Tensor, nn

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.quantization import model_bytes, quantize
from vl_lst.devices import autocast
from vl_lst.generation.search import generate
from vl_lst.methods import method_names
from vl_lst.models.batch import Batch
from vl_lst.training.saved_bytes import TOTAL, saved_bytes_by_part

MakeTiny = Callable[..., FrozenBackbone]
Model = tuple[Any, dict[str, nn.Parameter]]
METHODS = method_names()
# Devices add up in different orders.
TOLERANCE = {"rtol": 1e-3, "atol": 1e-5}


def built(
    make_tiny: MakeTiny, method: str, dropout: float = 0.0, *, recompute: bool = False
) -> Model:
    return attach(method, make_tiny("t5"), "generate", dropout, recompute=recompute)


def moved(model: Model, device: str) -> Model:
    """Return a copy on a device, with its parameters."""
    whole = copy.deepcopy(model[0]).to(device)
    return whole, {name: whole.get_parameter(name) for name in model[1]}


def step(model: Model, batch: Batch, precision: Any = "fp32") -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the gradients, which stay on the device."""
    whole, trainable = model
    with autocast(precision, batch.prompt_index_B.device):
        loss = whole(batch)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in trainable.items() if p.grad is not None}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_loss_and_gradients_are_those_of_the_cpu(
    make_tiny: MakeTiny, method: str, device: str
) -> None:
    original = built(make_tiny, method)
    batch = tiny_batch(original[0].backbone)
    on_device = moved(original, device)
    expected_loss, expected = step(original, batch)
    loss, gradients = step(on_device, batch.to(device))
    assert loss.device.type == device
    torch.testing.assert_close(loss.cpu(), expected_loss, **TOLERANCE)
    assert set(gradients) == set(expected)
    for name, gradient in gradients.items():
        assert gradient.device.type == device
        scale = float(expected[name].abs().max())
        assert float((gradient.cpu() - expected[name]).abs().max()) <= 1e-3 * scale + 1e-6, name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_steps_in_bf16_lower_the_loss(make_tiny: MakeTiny, method: str, device: str) -> None:
    model = moved(built(make_tiny, method), device)
    whole, trainable = model
    batch = tiny_batch(whole.backbone).to(device)
    optimizer = torch.optim.AdamW(trainable.values(), lr=3e-3, weight_decay=0.0, fused=True)
    losses = []
    for _ in range(6):
        loss, gradients = step(model, batch, "bf16")
        assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["lst", "full", "lora", "sherl"])
def test_recomputing_draws_the_same_dropout(make_tiny: MakeTiny, method: str, device: str) -> None:
    found = []
    for recompute in (False, True):
        model = moved(built(make_tiny, method, 0.3, recompute=recompute), device)
        model[0].train()
        batch = tiny_batch(model[0].backbone).to(device)
        torch.manual_seed(11)
        saved = saved_bytes_by_part(model[0], batch, "examples")[TOTAL]
        found.append((saved, step(model, batch)))
    (kept, (loss, gradients)), (recomputed, (same_loss, same_gradients)) = found
    assert recomputed < kept
    torch.testing.assert_close(same_loss, loss, **TOLERANCE)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same_gradients[name], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["int8", "nf4"])
@pytest.mark.parametrize("method", ["lst", "qlora", "qst"])
def test_a_quantized_backbone_moves_to_the_device(
    make_tiny: MakeTiny, method: str, precision: Any, device: str
) -> None:
    whole, trainable = built(make_tiny, method)
    quantize(whole.backbone, precision)
    batch = tiny_batch(whole.backbone)
    with torch.no_grad():
        expected = whole(batch)
    size = model_bytes(whole)
    whole.to(device)
    assert model_bytes(whole) == size
    loss, gradients = step((whole, trainable), batch.to(device))
    assert gradients
    assert {gradient.device.type for gradient in gradients.values()} == {device}
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("method", ["lst", "full", "xladder"])
def test_answers_are_those_of_the_cpu(
    make_tiny: MakeTiny, method: str, beams: int, device: str
) -> None:
    original = built(make_tiny, method)
    batch = tiny_batch(original[0].backbone)
    whole, _ = moved(original, device)
    with torch.no_grad():
        expected = generate(original[0], batch, max_length=6, beams=beams)
        found = generate(whole, batch.to(device), max_length=6, beams=beams)
    assert found.device.type == device
    assert torch.equal(found.cpu(), expected)
