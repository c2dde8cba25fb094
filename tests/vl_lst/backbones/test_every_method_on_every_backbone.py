"""Properties of every transfer method on backbones of every family.

New files in `vl_lst/methods` and the guide's methods are included.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from guide_methods import guide_methods
from safetensors.torch import load_file
from tiny_backbones import tiny_backbones
from tiny_batches import tiny_batch, visual_for
from tiny_methods import HEADS, OPTIONS, VARIANTS, attach, lacks, train_declared, variants_on
from torch import Tensor, nn

from vl_lst.backbones.backbone import Backbone
from vl_lst.backbones.families import find_family
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.choices import ArithmeticPrecision
from vl_lst.devices import autocast
from vl_lst.errors import ModelError
from vl_lst.generation.search import beam_search, greedy_search
from vl_lst.methods import get_method, method_names
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.joint import JointBackbone, JointModel
from vl_lst.recipes.building import attach_method
from vl_lst.runs.checkpoint import (
    MODEL,
    Checkpoint,
    load_checkpoint,
    load_parameters,
    save_checkpoint,
)
from vl_lst.training.saved_bytes import bytes_saved_for_backward, saved_bytes_by_part

TINY = tiny_backbones()
FAMILIES = {
    name: tiny.family or find_family(tiny.build().config.model_type) for name, tiny in TINY.items()
}
# The guide's methods are tested on one backbone, options on some.
VARIED = ("t5", "mbart", "t5gemma", "blip-2", "bert")
PAIRS = [
    (name, method)
    for name in TINY
    for method in (
        *method_names(),
        *(guide_methods() if name == "t5" else ()),
        *(variants_on(name) if name in VARIED else ()),
    )
]
# What these add starts at zero, or at one if it multiplies.
UNDISTURBED = (
    "full",
    "bitfit",
    "adapter",
    "lora",
    "dora",
    "ia3",
    "probe",
    "RescaledNorms",
    "bitfit without final norms",
    "dora with biases",
    "lora with biases",
    "lora with tables",
    "vera",
)
MAX_LENGTH = 7
# Methods that run the backbone without gradients.
FROZEN = ("lst", "side", "unipt", "lst merged", "qst", "xladder")

MakeTiny = Callable[..., FrozenBackbone]


def heads_for(name: str, method: str = "full") -> list[str]:
    # A probe trains nothing if there is no visual embedding and the output layer is the head.
    is_frozen = method == "probe" and FAMILIES[name].reads_images
    return ["generate", "classify"] if TINY[name].has_decoder and not is_frozen else ["classify"]


# Properties that depend on where a method reaches into the blocks hold for every pair. For others,
# one backbone of each kind shows what a method does, and one method of each kind of model what a
# backbone does.
KINDS = (*VARIED, "t5gemma2")
THINNED = [pair for pair in PAIRS if pair[0] in KINDS or pair[1] in ("full", "lst")]
THINNED_HEADS = [(name, method, heads_for(name, method)[0]) for name, method in THINNED]
# The first head of every pair, and the other heads of some.
SOME_HEADS = [
    (name, method, head)
    for name, method in PAIRS
    for head in heads_for(name, method)[: None if (name, method) in THINNED else 1]
]


def disturb(trainable: dict[str, nn.Parameter]) -> None:
    """Move away from the initial values, many of which may be zero."""
    with torch.no_grad():
        for parameter in trainable.values():
            parameter += 0.1 * torch.randn_like(parameter)


@torch.no_grad()
def outputs(model: Any, batch: Batch) -> Tensor:
    result: Tensor
    result = model.classify(batch) if model.classifiers else model.token_losses(batch)
    return result


@pytest.mark.parametrize(("name", "method", "head"), SOME_HEADS)
def test_only_declared_parameters_get_gradients_and_change(
    make_tiny: MakeTiny, name: str, method: str, head: str
) -> None:
    model, trainable = attach(method, make_tiny(name), head)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    train_declared(model, trainable, tiny_batch(model.backbone), lr=1e-2)
    changed = {k for k, p in model.named_parameters() if not torch.equal(p, before[k])}
    if head == "generate":
        # The boxes of grid features are zeros, so nothing depends on this weight.
        assert changed == set(trainable) - {"visual.box_projection.weight"}
    else:  # a decoder with one token has constant attention weights
        assert changed <= set(trainable)
        assert {key for key in trainable if key.startswith("classifiers.")} <= changed


@pytest.mark.parametrize(("name", "method", "head"), THINNED_HEADS)
def test_a_checkpoint_holds_what_trains_and_restores_the_outputs(
    make_tiny: MakeTiny, tmp_path: Path, name: str, method: str, head: str
) -> None:
    model, trainable = attach(method, make_tiny(name), head)
    disturb(trainable)
    save_checkpoint(tmp_path / "last", Checkpoint({MODEL: trainable}, {}))
    assert set(load_file(tmp_path / "last" / "model.safetensors")) == set(trainable)
    # A run is loaded with another state of the random generators than that it started with.
    other, its_trainable = attach(method, make_tiny(name), head, seed=4)
    batch = tiny_batch(model.backbone)
    assert not torch.equal(outputs(other, batch), outputs(model, batch))
    saved = load_checkpoint(tmp_path / "last", MODEL).tensors[MODEL]
    load_parameters(its_trainable, saved, source=tmp_path)
    assert torch.equal(outputs(other, batch), outputs(model, batch))


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name, method in PAIRS if method in UNDISTURBED]
)
def test_training_starts_at_the_backbones_output(
    make_tiny: MakeTiny, name: str, method: str
) -> None:
    head = heads_for(name, method)[0]
    model, _ = attach(method, make_tiny(name), head)
    backbone = make_tiny(name)
    bare = JointModel(
        JointBackbone(backbone.model, dropout=0.0, family=backbone.family),
        visual=visual_for(backbone),
        head=HEADS[head],
    ).eval()
    if bare.visual is not None:
        bare.visual.load_state_dict(model.visual.state_dict(), strict=False)
    bare.classifiers.load_state_dict(model.classifiers.state_dict())
    batch = tiny_batch(backbone)
    torch.testing.assert_close(outputs(model, batch), outputs(bare, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "method"), [pair for pair in PAIRS if "generate" in heads_for(*pair)]
)
def test_cached_search_equals_uncached_passes(
    make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch, name: str, method: str
) -> None:
    model, trainable = attach(method, make_tiny(name), "generate")
    disturb(trainable)
    batch = tiny_batch(model.backbone)
    ids_BL = greedy_search(model, batch, max_length=MAX_LENGTH)
    rows = torch.arange(len(batch))
    with torch.no_grad():
        states = model.decode(model.encode(batch), ids_BL, rows, rows)
        best_BL = model.logits(states).argmax(-1)
    first = 1 if model.backbone.forced_bos_token_id is None else 2
    end = MAX_LENGTH if model.backbone.forced_eos_token_id is None else MAX_LENGTH - 1
    for found, best in zip(ids_BL.tolist(), best_BL.tolist(), strict=True):
        for position in range(first, min(end, len(found))):
            assert found[position] == best[position - 1]
            if found[position] == model.backbone.eos_token_id:
                break
    one_beam, _ = beam_search(model, batch, max_length=MAX_LENGTH, beams=1)
    width = min(one_beam.shape[1], ids_BL.shape[1])
    assert torch.equal(one_beam[:, :width], ids_BL[:, :width])
    # The beams of an example share the keys and values of the encoder's states.
    monkeypatch.setattr(Backbone, "end_token_ids", (-1,))
    ids_BL, scores_B = beam_search(model, batch, max_length=MAX_LENGTH, beams=3)
    with torch.no_grad():
        logits_BLV = model.logits(model.decode(model.encode(batch), ids_BL, rows, rows))
    chosen_BL = logits_BLV.log_softmax(-1)[:, :-1].gather(2, ids_BL[:, 1:, None])[..., 0]
    torch.testing.assert_close(
        scores_B, chosen_BL[:, first - 1 : end - 1].sum(1) / MAX_LENGTH, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("name", "method", "head"), THINNED_HEADS)
def test_images_matter_and_are_distinguished(
    make_tiny: MakeTiny, name: str, method: str, head: str
) -> None:
    model, trainable = attach(method, make_tiny(name), head)
    disturb(trainable)  # position biases, which tell the order of tokens, start at zero
    batch = tiny_batch(model.backbone, images=2)
    features = batch.features_BINF
    answers = outputs(model, batch)
    assert torch.isfinite(answers).all()
    for other in (features.flip(1), features * torch.tensor([1.0, 0.0])[:, None, None]):
        changed = outputs(model, replace(batch, features_BINF=other))
        assert not torch.allclose(answers, changed, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "method", "head"), THINNED_HEADS)
def test_a_bfloat16_backbone_trains_what_is_added_in_float32(
    make_tiny: MakeTiny, name: str, method: str, head: str
) -> None:
    backbone = make_tiny(name, "bf16")
    if method == "full":
        with pytest.raises(ModelError, match="bfloat16 here; expected float32"):
            attach(method, backbone, head)
        backbone = make_tiny(name)
    model, trainable = attach(method, backbone, head)
    batch = tiny_batch(backbone)
    losses = []
    for precision in get_args(ArithmeticPrecision):
        with autocast(precision, model.device):
            loss = model(batch)
        loss.backward()
        losses.append(loss.item())
        for parameter in trainable.values():
            assert parameter.dtype == torch.float32
            assert torch.isfinite(parameter.grad).all()
            parameter.grad = None
        if head == "generate":
            with autocast(precision, model.device):
                assert greedy_search(model, batch, max_length=4).shape[0] == len(batch)
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize(("name", "method", "head"), THINNED_HEADS)
def test_dropout_is_off_in_evaluation(
    make_tiny: MakeTiny, name: str, method: str, head: str
) -> None:
    model, trainable = attach(method, make_tiny(name), head, dropout=0.5)
    disturb(trainable)  # initial values may ignore what has dropout
    batch = tiny_batch(model.backbone)
    model.train()
    assert not torch.equal(outputs(model, batch), outputs(model, batch))
    model.eval()
    assert torch.equal(outputs(model, batch), outputs(model, batch))


@pytest.mark.parametrize("method", FROZEN)
@pytest.mark.parametrize("name", TINY)
def test_nothing_of_a_frozen_backbone_is_saved_for_backward(
    make_tiny: MakeTiny, name: str, method: str
) -> None:
    model, _ = attach(method, make_tiny(name), heads_for(name)[0])
    batch = tiny_batch(model.backbone)
    parts = {"backbone": model.backbone.model}
    saved = bytes_saved_for_backward(model.train(), lambda: model(batch), parts)
    assert saved["backbone"] == 0
    assert saved["total"] > 0


@pytest.mark.parametrize("name", TINY)
def test_full_fine_tuning_saves_bytes_of_every_block(make_tiny: MakeTiny, name: str) -> None:
    model, _ = attach("full", make_tiny(name), heads_for(name)[0])
    saved = saved_bytes_by_part(model.train(), tiny_batch(model.backbone), "examples")
    for stack, (_, blocks) in model.backbone.stacks().items():
        for layer in range(len(blocks)):
            assert saved[f"backbone {stack} layer {layer}"] > 0


def refusal(name: str, method: str, backbone: FrozenBackbone, **changed: Any) -> str:
    """Return the message with which a combination is refused."""
    settings = {
        "options": OPTIONS.get(method, {}),
        "visual": visual_for(backbone),
        "heads": {DEFAULT_TASK: HEADS[heads_for(name, method)[0]]},
        "precision": "nf4" if get_method(method).needs_quantized_backbone else "fp32",
    }
    with pytest.raises(ModelError) as caught:
        attach_method(method, backbone=backbone, **{**settings, **changed})  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("name", [name for name in TINY if not TINY[name].has_decoder])
def test_an_encoder_is_refused_for_a_head_that_generates(
    make_tiny: MakeTiny, name: str, method: str
) -> None:
    heads = {DEFAULT_TASK: HEADS["generate"]}
    assert "has an encoder only" in refusal(name, method, make_tiny(name), heads=heads)


@pytest.mark.parametrize("kind", ["magnitude", "principal"])
@pytest.mark.parametrize("name", TINY)
def test_an_initialisation_is_derived_from_the_backbone_or_refused(
    make_tiny: MakeTiny, name: str, kind: str
) -> None:
    backbone, method = make_tiny(name), get_method("lst")
    family = backbone.family
    options = method.options(reduction=2, rungs="linear", initialisation=kind)
    heads = {DEFAULT_TASK: HEADS[heads_for(name)[0]]}
    model = method.attach(backbone, options, visual=visual_for(backbone), heads=heads).eval()
    batch = tiny_batch(model.backbone)
    ids_UT = batch.prompt_ids_UT
    samples = [(ids_UT[row : row + 1], ids_UT[row : row + 1, :3]) for row in range(len(ids_UT))]
    before = {key: value.clone() for key, value in model.side.state_dict().items()}
    if not family.matches_side_blocks:
        expected = "built otherwise: expected random"
    elif name == "umt5":
        expected = "each block of a backbone of type umt5 has its own: expected random"
    elif family.reads_images and kind == "principal":
        expected = "this backbone reads images too: expected random, "
    else:
        method.initialise(model, options, samples)
        changed = model.side.state_dict()
        assert any(not torch.equal(value, changed[key]) for key, value in before.items())
        assert torch.isfinite(outputs(model, batch)).all()
        return
    with pytest.raises(ModelError, match=expected):
        method.initialise(model, options, samples)


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if lacks(variant)])
@pytest.mark.parametrize("name", TINY)
def test_an_option_is_refused_where_the_backbone_lacks_what_it_concerns(
    make_tiny: MakeTiny, name: str, variant: str
) -> None:
    backbone = make_tiny(name)
    if variant in variants_on(name):
        attach(variant, backbone, heads_for(name)[0])
        return
    method, options = VARIANTS[variant]
    assert lacks(variant) in refusal(name, method, backbone, options=options)


@pytest.mark.parametrize("name", [name for name in TINY if not TINY[name].has_decoder])
def test_adapters_after_cross_attention_need_a_decoder(make_tiny: MakeTiny, name: str) -> None:
    options = {"reduction": 2, "places": ["cross_attention"]}
    message = refusal(name, "adapter", make_tiny(name), options=options)
    assert "places is cross_attention, which a backbone of type" in message
