"""Methods that read states alone: losses and gradients do not depend on who gives the states."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_backbones import one_of_each_family
from tiny_batches import tiny_batch, visual_for
from tiny_methods import VARIANTS, attach, method_named
from torch import Tensor

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.states.reader import PaddedStates
from vl_lst.backbones.stored import BackboneStates, StoredBackbone
from vl_lst.errors import ModelError, RecipeError
from vl_lst.methods import get_method, method_names, require_states_alone
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig

READERS = [name for name in (*method_names(), *VARIANTS) if method_named(name).reads_states_alone]
FAMILIES = one_of_each_family()
# Every family with the ladder; its variants and the other methods with some of them.
PAIRS = [
    (family, method)
    for family in FAMILIES
    for method in READERS
    if method == "lst" or family in ("t5", "blip-2", "bert")
]
MakeTiny = Callable[..., FrozenBackbone]


def padded(states_NTD: Tensor, blocks: Tensor, final: Tensor | None, mask: Tensor) -> PaddedStates:
    """States as a file gives them: with zeros for padding."""
    kept = mask[..., None]
    return PaddedStates(
        states_NTD * kept, blocks * kept, None if final is None else final * kept, mask
    )


def states_of(model: Any, batch: Batch, head: str) -> BackboneStates:
    """What a file would hold for a batch."""
    backbone, side = model.backbone, model.side
    images = model.images_of_prompts(batch)
    taps = backbone.encode(batch.prompt_ids_UT, side.encoder.layers, images)
    reads_final = model.reads_final_states
    final = taps.final_UTD if reads_final and side.decoder is None else None
    encoder = padded(taps.embedding_UTD, taps.blocks_KUTD, final, taps.mask_UT)
    if side.decoder is None:
        return BackboneStates(encoder)
    if head == "generate":
        rows = batch.prompt_index_B[batch.pair_rows_P]
        ids = backbone.shift_right(batch.labels_BL)[batch.pair_rows_P]
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[:, 1:] = batch.labels_BL[batch.pair_rows_P][:, 1:] >= 0
    else:
        rows = torch.arange(len(batch.prompt_ids_UT))
        ids = torch.full((len(rows), 1), backbone.start_token_id)
        mask = torch.ones_like(ids, dtype=torch.bool)
    decoded = backbone.decode(
        ids,
        side.decoder.layers,
        encoder_states_PTD=taps.final_UTD[rows],
        encoder_mask_PT=taps.mask_UT[rows],
    )
    final = decoded.final_PLD if reads_final else None
    return BackboneStates(encoder, padded(decoded.embedding_PLD, decoded.blocks_KPLD, final, mask))


def loss_and_gradients(model: Any, trainable: Any, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
    for parameter in trainable.values():
        parameter.grad = None
    loss = model(batch)
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in trainable.items()}


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_losses_and_gradients_are_those_of_the_backbone(
    make_tiny: MakeTiny, family: str, method: str
) -> None:
    """To the last bit, for states of the same batch; padding has no effect."""
    backbone = make_tiny(family)
    for head in ("generate", "classify", "regress"):
        if head == "generate" and not backbone.has_decoder:
            continue
        model, trainable = attach(method, backbone, head)
        batch = tiny_batch(backbone)
        if head != "generate":
            batch = replace(batch, labels_BL=None, pair_rows_P=None, pair_index_B=None)
        states = states_of(model, batch, head)
        expected_loss, expected = loss_and_gradients(model, trainable, batch)
        output = backbone.family.output_layer(backbone.model) if backbone.has_decoder else None
        model.backbone = StoredBackbone(backbone.config, backbone.family, output)
        # What a backbone reads of images is in its states.
        features = None if backbone.reads_images else batch.features_BINF
        stored = replace(batch, states=states, features_BINF=features)
        loss, gradients = loss_and_gradients(model, trainable, stored)
        assert torch.equal(loss, expected_loss)
        assert all(torch.equal(gradients[name], expected[name]) for name in expected)
        # Examples with states of their own, as an estimate of memory needs them, change nothing.
        alone = model(stored.unshare())
        assert torch.allclose(alone, expected_loss, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_answers_for_the_backbone_without_its_weights(make_tiny: MakeTiny, family: str) -> None:
    backbone = make_tiny(family)
    stored = StoredBackbone(backbone.config, backbone.family, None)
    names = ["width", "output_width", "vocabulary_size", "pad_token_id", "relative_positions"]
    if backbone.has_decoder:
        names += ["start_token_id", "end_token_ids", "forced_bos_token_id", "decoder_sizes"]
    for name in names:
        assert getattr(stored, name) == getattr(backbone, name)
    assert list(stored.parameters()) == []
    assert stored.state_dict() == {}
    tied = sum(p.numel() for p in backbone.parameters())
    # Tiny models may tie an output layer that published ones of their family do not tie.
    own = backbone.vocabulary_weight.numel() if backbone.has_decoder else 0
    assert stored.num_absent_parameters in (tied, tied + own)


def test_methods_that_run_the_backbone_are_refused() -> None:
    others = [name for name in method_names() if not get_method(name).reads_states_alone]
    assert {"full", "lora", "probe", "sherl"} <= set(others)
    for name in others:
        with pytest.raises(RecipeError, match=f"found {name}, which runs the backbone"):
            require_states_alone(name)


def test_dropout_in_the_backbone_is_refused(make_tiny: MakeTiny) -> None:
    backbone = make_tiny("t5")
    stored = StoredBackbone(backbone.config, backbone.family, None)
    method = get_method("lst")
    options = method.options.model_validate({"reduction": 2, "backbone_dropout": 0.1})
    heads = {DEFAULT_TASK: HeadConfig(kind="classify", answers=5)}
    with pytest.raises(ModelError, match=r"backbone_dropout is 0\.1.*expected 0"):
        method.attach(stored, options, visual=visual_for(stored), heads=heads)
