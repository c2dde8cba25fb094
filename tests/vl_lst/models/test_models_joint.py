"""The model whose backbone reads text and image together."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers.models.t5.modeling_t5 import T5Attention

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.joint import JointBackbone, JointModel
from vl_lst.models.losses import vocabulary_losses
from vl_lst.training.saved_bytes import bytes_saved_for_backward


@pytest.fixture
def model(make_backbone: Callable[..., FrozenBackbone]) -> JointModel:
    joint = JointModel(
        JointBackbone(make_backbone().model, dropout=0.1),
        visual=VisualConfig(channels=8, tokens=9, pooled_grid=2),
        head=HeadConfig(kind="generate"),
    )
    return joint.eval()


def test_text_without_images_equals_the_stock_model(
    model: JointModel, make_backbone: Callable[..., FrozenBackbone]
) -> None:
    ids, mask = torch.randint(2, 60, (3, 7)), torch.ones(3, 7, dtype=torch.bool)
    states = model.backbone.encode(model.backbone.embed(ids), mask, text=7)
    stock = make_backbone().model.encoder(ids, mask.long()).last_hidden_state
    torch.testing.assert_close(states, stock)


def test_image_tokens_have_no_relative_position(model: JointModel) -> None:
    """Swapping two of them swaps their states and changes nothing else."""
    embedding = torch.randn(2, 9, 32)
    order = [0, 1, 2, 3, 4, 5, 8, 7, 6]
    mask = torch.ones(2, 9, dtype=torch.bool)
    states = model.backbone.encode(embedding, mask, text=6)
    others = model.backbone.encode(embedding[:, order], mask, text=6)
    torch.testing.assert_close(states[:, order], others, rtol=1e-4, atol=1e-5)
    order = [1, 0, 2, 3, 4, 5, 6, 7, 8]
    others = model.backbone.encode(embedding[:, order], mask, text=6)
    assert not torch.allclose(states[:, order], others, rtol=1e-3, atol=1e-3)


def test_padding_a_prompt_changes_nothing(model: JointModel, make_batch) -> None:
    batch = make_batch()
    wider = torch.nn.functional.pad(batch.prompt_ids_UT, (0, 3))
    torch.testing.assert_close(model(batch), model(replace(batch, prompt_ids_UT=wider)))


def test_equal_prompts_give_each_example_a_row(model: JointModel, make_batch) -> None:
    batch = make_batch()
    assert len(batch.prompt_ids_UT) < len(batch)
    unshared = replace(
        batch,
        prompt_ids_UT=batch.prompt_ids_UT[batch.prompt_index_B],
        prompt_index_B=torch.arange(len(batch)),
    )
    torch.testing.assert_close(model.token_losses(batch), model.token_losses(unshared))


def test_joint_hooks_are_removed_after_a_failed_call(model: JointModel) -> None:
    with pytest.raises(RuntimeError):
        model.backbone.encode(torch.randn(1, 3, 5), torch.ones(1, 3, dtype=torch.bool), text=3)
    assert not any(module._forward_hooks for module in model.modules())


def test_dropout_is_set_everywhere_and_trains_with_the_model(
    make_backbone: Callable[..., FrozenBackbone],
) -> None:
    backbone = JointBackbone(make_backbone().model, dropout=0.25)
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            assert module.p == 0.25
        if isinstance(module, T5Attention):
            assert module.dropout == 0.25
    assert all(module.training for module in backbone.train().modules())


def test_losses_of_an_output_layer_that_trains_equal_cross_entropy(monkeypatch) -> None:
    monkeypatch.setattr("vl_lst.models.losses.MAX_LOGITS_BYTES", 4 * 11 * 3)
    states = torch.randn(10, 6, requires_grad=True)
    weight = nn.Parameter(torch.randn(11, 6))
    bias = nn.Parameter(torch.randn(11))
    targets = torch.randint(0, 11, (10,))
    targets[3] = -100
    upstream = torch.rand(10)
    losses = vocabulary_losses(states, weight, targets, bias_V=bias)
    found = torch.autograd.grad(losses @ upstream, (states, weight, bias))
    logits = torch.nn.functional.linear(states, weight, bias)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(losses, expected)
    wanted = torch.autograd.grad(expected @ upstream, (states, weight, bias))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_logits_are_not_saved_if_the_output_layer_trains() -> None:
    states, layer = torch.randn(10, 6, requires_grad=True), nn.Linear(6, 5000)
    targets = torch.randint(0, 5000, (10,))
    saved = bytes_saved_for_backward(
        layer, lambda: vocabulary_losses(states, layer.weight, targets, bias_V=layer.bias)
    )
    assert saved["total"] < 10 * 5000
