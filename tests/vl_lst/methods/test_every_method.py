"""Properties of every transfer method, including new files in `vl_lst/methods` and the guide's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from guide_methods import guide_methods
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from vl_lst.backbones.backbone import FrozenBackbone
from vl_lst.errors import ModelError
from vl_lst.generation.search import beam_search, greedy_search
from vl_lst.methods import Method, get_method, method_names
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.joint import JointBackbone, JointModel
from vl_lst.runs.checkpoint import (
    MODEL,
    Checkpoint,
    load_checkpoint,
    load_parameters,
    save_checkpoint,
)
from vl_lst.training.saved_bytes import bytes_saved_for_backward

GUIDE_METHODS = guide_methods()
METHODS = [*method_names(), *GUIDE_METHODS]
HEADS = {
    "generate": HeadConfig(kind="generate"),
    "classify": HeadConfig(kind="classify", answers=5),
}
# What these add starts at zero, or at one if it multiplies.
UNDISTURBED = ("full", "bitfit", "adapter", "lora", "dora", "ia3", "RescaledNorms")
VISUAL = VisualConfig(channels=8, tokens=9, pooled_grid=2)

Attached = tuple[Any, dict[str, nn.Parameter]]


def method_named(name: str) -> Method:
    return GUIDE_METHODS.get(name) or get_method(name)


def attach(
    name: str, backbone: FrozenBackbone, head: str = "generate", visual: VisualConfig = VISUAL
) -> Attached:
    """Build a model and its trainable parameters as training does, without dropout."""
    method = method_named(name)
    known = method.options.model_fields
    options = method.options.model_validate({"dropout": 0.0} if "dropout" in known else {})
    torch.manual_seed(3)
    model = method.attach(backbone, options, visual=visual, heads={DEFAULT_TASK: HEADS[head]})
    model.requires_grad_(False)
    trainable = method.trainable(model)
    for parameter in trainable.values():
        parameter.requires_grad_(True)
    return model.eval(), trainable


def disturb(trainable: dict[str, nn.Parameter]) -> None:
    """Move away from the initial values, many of which may be zero."""
    with torch.no_grad():
        for parameter in trainable.values():
            parameter += 0.1 * torch.randn_like(parameter)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", METHODS)
def test_only_declared_parameters_get_gradients_and_change(
    make_backbone: Callable[..., FrozenBackbone],
    make_batch: Callable[..., Batch],
    name: str,
    head: str,
) -> None:
    model, trainable = attach(name, make_backbone(), head)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-2, weight_decay=0.0)
    batch = make_batch()
    model.train()
    for _ in range(3):  # behind a factor of zero, the first nonzero gradient comes in step two
        optimizer.zero_grad()
        model(batch).backward()
        with_gradient = {key for key, p in model.named_parameters() if p.grad is not None}
        assert with_gradient == set(trainable)
        optimizer.step()
    changed = {k for k, p in model.named_parameters() if not torch.equal(p, before[k])}
    if head == "generate":
        # The boxes of grid features are zeros, so nothing depends on this weight.
        assert changed == set(trainable) - {"visual.box_projection.weight"}
    else:  # a decoder with one token has constant attention weights
        assert changed <= set(trainable)
        assert {key for key in trainable if key.startswith("classifiers.")} <= changed


@pytest.mark.parametrize("name", METHODS)
def test_visual_embedding_and_heads_always_train(
    make_backbone: Callable[..., FrozenBackbone], name: str
) -> None:
    model, trainable = attach(name, make_backbone(), "classify")
    chosen = {id(parameter) for parameter in trainable.values()}
    for part in (model.visual, model.classifiers):
        assert all(id(parameter) in chosen for parameter in part.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in trainable.values())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_holds_what_trains_and_restores_the_outputs(
    make_backbone: Callable[..., FrozenBackbone],
    make_batch: Callable[..., Batch],
    tmp_path: Path,
    name: str,
    head: str,
) -> None:
    model, trainable = attach(name, make_backbone(), head)
    disturb(trainable)
    save_checkpoint(tmp_path / "last", Checkpoint({MODEL: trainable}, {}))
    assert set(load_file(tmp_path / "last" / "model.safetensors")) == set(trainable)
    other, its_trainable = attach(name, make_backbone(), head)
    batch = make_batch()
    assert not torch.equal(outputs(other, batch), outputs(model, batch))
    saved = load_checkpoint(tmp_path / "last", MODEL).tensors[MODEL]
    load_parameters(its_trainable, saved, source=tmp_path)
    assert torch.equal(outputs(other, batch), outputs(model, batch))


@torch.no_grad()
def outputs(model: Any, batch: Batch) -> Tensor:
    result: Tensor
    result = model.classify(batch) if model.classifiers else model.token_losses(batch)
    return result


@pytest.mark.parametrize("name", UNDISTURBED)
def test_training_starts_at_the_backbones_output(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch], name: str
) -> None:
    model, _ = attach(name, make_backbone())
    bare = JointModel(
        JointBackbone(make_backbone().model, dropout=0.0), visual=VISUAL, head=HEADS["generate"]
    ).eval()
    bare.visual.load_state_dict(model.visual.state_dict(), strict=False)
    batch = make_batch()
    torch.testing.assert_close(outputs(model, batch), outputs(bare, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_cached_search_equals_uncached_passes(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch], name: str
) -> None:
    model, trainable = attach(name, make_backbone())
    disturb(trainable)
    batch = make_batch()
    ids_BL = greedy_search(model, batch, max_length=7)
    rows = torch.arange(len(batch))
    with torch.no_grad():
        states = model.decode(model.encode(batch), ids_BL, rows, rows)
        best_BL = model.logits(states).argmax(-1)
    for found, best in zip(ids_BL.tolist(), best_BL.tolist(), strict=True):
        for position in range(1, len(found)):
            assert found[position] == best[position - 1]
            if found[position] == model.backbone.eos_token_id:
                break
    one_beam, _ = beam_search(model, batch, max_length=7, beams=1)
    width = min(one_beam.shape[1], ids_BL.shape[1])
    assert torch.equal(one_beam[:, :width], ids_BL[:, :width])
    _, three_scores = beam_search(model, batch, max_length=7, beams=3)
    assert torch.isfinite(three_scores).all()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", METHODS)
def test_two_images_matter_and_are_distinguished(
    make_backbone: Callable[..., FrozenBackbone],
    make_batch: Callable[..., Batch],
    name: str,
    head: str,
) -> None:
    model, _ = attach(name, make_backbone(), head)
    batch = make_batch(images=2)
    swapped = replace(batch, features_BINF=batch.features_BINF.flip(1))
    without_second = replace(
        batch, features_BINF=batch.features_BINF * torch.tensor([1.0, 0.0])[:, None, None]
    )
    answers = outputs(model, batch)
    assert torch.isfinite(answers).all()
    assert not torch.allclose(answers, outputs(model, swapped), rtol=1e-6, atol=1e-7)
    assert not torch.allclose(answers, outputs(model, without_second), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", METHODS)
def test_tasks_that_classify_and_generate_share_one_model(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch], name: str
) -> None:
    method = method_named(name)
    heads = {"vqa": HEADS["classify"], "caption": HEADS["generate"]}
    model = method.attach(make_backbone(), method.options(), visual=VISUAL, heads=heads).eval()
    batch = make_batch()
    assert model.classify(replace(batch, task="vqa")).shape == (len(batch), 5)
    assert model.token_losses(replace(batch, task="caption")).shape == batch.labels_BL.shape
    assert torch.isfinite(model(replace(batch, task="vqa")))
    assert torch.isfinite(model(replace(batch, task="caption")))


@pytest.mark.parametrize("name", METHODS)
def test_v1_1_backbones_are_supported(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch], name: str
) -> None:
    """They have a gated feed-forward layer and an untied output layer."""
    for head in HEADS:
        model, trainable = attach(name, make_backbone(gated=True), head)
        model(make_batch()).backward()
        assert {k for k, p in model.named_parameters() if p.grad is not None} == set(trainable)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", METHODS)
def test_a_bfloat16_backbone_trains_what_is_added_in_float32(
    make_backbone: Callable[..., FrozenBackbone],
    make_batch: Callable[..., Batch],
    name: str,
    head: str,
) -> None:
    backbone = FrozenBackbone(make_backbone().model.to(torch.bfloat16))
    if name == "full":
        with pytest.raises(ModelError, match="bfloat16 here; expected float32"):
            attach(name, backbone, head)
        return
    model, trainable = attach(name, backbone, head)
    model(make_batch()).backward()
    for parameter in trainable.values():
        assert parameter.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all()
    if head == "generate":
        assert greedy_search(model, make_batch(), max_length=4).shape[0] == 4


@pytest.mark.parametrize("name", METHODS)
def test_dropout_is_off_in_evaluation(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch], name: str
) -> None:
    method = method_named(name)
    heads = {DEFAULT_TASK: HEADS["generate"]}
    options = method.options.model_validate({"dropout": 0.5})
    model = method.attach(make_backbone(), options, visual=VISUAL, heads=heads)
    batch = make_batch()
    model.train()
    assert not torch.equal(outputs(model, batch), outputs(model, batch))
    model.eval()
    assert torch.equal(outputs(model, batch), outputs(model, batch))


def test_the_ladder_saves_the_fewest_bytes_for_the_backward_pass() -> None:
    """Uses T5-base's widths and the paper's lengths; two layers are enough for the order."""
    config = T5Config(vocab_size=300, d_model=768, d_ff=3072, d_kv=64, num_heads=12, num_layers=2)
    rows = 2
    batch = Batch(
        features_BINF=torch.randn(rows, 1, 49, 2048),
        prompt_ids_UT=torch.randint(2, 300, (rows, 15)),
        prompt_index_B=torch.arange(rows),
        labels_BL=torch.randint(2, 300, (rows, 4)),
        weights_B=torch.ones(rows),
    )
    saved = {}
    for name in ("lst", "bitfit", "lora", "full"):
        backbone = FrozenBackbone(T5ForConditionalGeneration(config))
        method = method_named(name)
        model = method.attach(
            backbone,
            method.options(),
            visual=VisualConfig(channels=2048, tokens=49),
            heads={DEFAULT_TASK: HEADS["generate"]},
        )
        model.requires_grad_(False)
        for parameter in method.trainable(model).values():
            parameter.requires_grad_(True)
        model.train()
        counted = bytes_saved_for_backward(model, lambda model=model: model(batch))
        saved[name] = counted["total"]
    assert saved["lst"] < saved["bitfit"] < saved["lora"] < saved["full"]
    assert saved["lst"] < 0.4 * saved["full"]
