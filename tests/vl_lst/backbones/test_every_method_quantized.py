"""Every transfer method on a backbone in 8 and 4 bits."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tiny_backbones import tiny_backbones
from tiny_batches import tiny_batch
from tiny_methods import attach, train_declared, variants_on
from torch import nn

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.quantization import dequantized, quantize
from vl_lst.errors import ModelError
from vl_lst.methods import method_names
from vl_lst.training.saved_bytes import bytes_saved_for_backward

TINY = tiny_backbones()
# Every method on these; on the others, which differ in their linear layers alone, two.
VARIED = ("t5", "mbart", "bert")
METHODS = [method for method in method_names() if method != "full"]
CASES = [
    (name, method)
    for name in TINY
    for method in ((*METHODS, *variants_on(name)) if name in VARIED else ("lora", "lst"))
]
# Gradients of int8 weights are computed in another order than those of their numbers.
TOLERANCE = {"nf4": 1e-6, "int8": 1e-4}

MakeTiny = Callable[..., FrozenBackbone]


def head_for(backbone: FrozenBackbone) -> str:
    return "classify" if not backbone.has_decoder or backbone.reads_images else "generate"


def quantized(
    make_tiny: MakeTiny, name: str, method: str, precision: str, **options: Any
) -> tuple[Any, dict[str, nn.Parameter]]:
    """Return a model in float32 with a quantized backbone, away from its initial values."""
    backbone = make_tiny(name)
    model, trainable = attach(method, backbone, head_for(backbone), **options)
    generator = torch.Generator().manual_seed(5)
    for parameter in trainable.values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    quantize(model.backbone, precision)  # type: ignore[arg-type]
    return model, trainable


def use_plain_weights(model: Any) -> None:
    """Replace quantized weights by the numbers that they stand for."""
    for layer in model.backbone.linear_layers:
        if not layer.weight.requires_grad:
            layer.weight = nn.Parameter(dequantized(layer.weight), requires_grad=False)
            layer.__class__ = nn.Linear


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize(("name", "method"), CASES)
def test_gradients_are_those_on_the_dequantized_weights(
    make_tiny: MakeTiny, name: str, method: str, precision: str
) -> None:
    gradients = []
    for is_plain in (False, True):
        model, trainable = quantized(make_tiny, name, method, precision)
        if is_plain:
            use_plain_weights(model)
        model(tiny_batch(model.backbone)).backward()
        assert {key for key, p in model.named_parameters() if p.grad is not None} == set(trainable)
        gradients.append({key: parameter.grad for key, parameter in trainable.items()})
    found, expected = gradients
    size = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for key, gradient in expected.items():
        assert (found[key] - gradient).norm() <= TOLERANCE[precision] * size, key


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_in_bfloat16_and_saves_no_weights(
    make_tiny: MakeTiny, method: str, precision: str
) -> None:
    saved = []
    for is_quantized in (False, True):
        model, trainable = attach(method, make_tiny("t5", "bf16"), "generate", dropout=0.0)
        if is_quantized:
            quantize(model.backbone, precision)  # type: ignore[arg-type]
        batch = tiny_batch(model.backbone)
        saved.append(bytes_saved_for_backward(model.train(), partial(model, batch))["total"])
    assert saved[0] == saved[1]
    train_declared(model, trainable, batch, lr=5e-3)


def test_full_fine_tuning_is_refused(make_tiny: MakeTiny) -> None:
    with pytest.raises(ModelError, match="backbone.precision to fp32"):
        attach("full", make_tiny("t5", "bf16"), "generate")


def test_what_a_method_inserts_and_trains_is_not_quantized(make_tiny: MakeTiny) -> None:
    model, _ = attach("adapter", make_tiny("t5"), "generate")
    chosen = model.backbone.linear_layers[0]
    chosen.weight.requires_grad_(True)
    quantize(model.backbone, "nf4")
    for module in model.modules():
        if isinstance(module, nn.Linear):
            is_frozen = module in model.backbone.linear_layers and module is not chosen
            assert is_frozen == (dequantized(module.weight) is not module.weight)
