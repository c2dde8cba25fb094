"""The frozen backbone is invisible to autograd; see `test_every_backbone` for its states."""

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.errors import ModelError


def test_no_tap_requires_grad_even_if_the_weights_do(make_backbone) -> None:
    backbone = make_backbone()
    backbone.model.requires_grad_(True)
    ids = torch.randint(2, 60, (2, 5))
    taps = backbone.encode(ids, range(backbone.encoder_depth))
    decoded = backbone.decode(
        ids, [0, 1], encoder_states_PTD=taps.final_UTD, encoder_mask_PT=taps.mask_UT
    )
    states = [taps.embedding_UTD, taps.blocks_KUTD, taps.final_UTD, decoded.blocks_KPLD]
    assert not any(state.requires_grad for state in states)


def test_hooks_are_removed_after_a_failed_call(make_backbone) -> None:
    backbone = make_backbone()
    with pytest.raises(IndexError):
        backbone.encode(torch.full((1, 3), 10_000), [0])
    assert not any(block._forward_hooks for block in backbone.model.encoder.block)


def test_it_stays_in_evaluation_mode(make_model) -> None:
    model = make_model().train()
    assert model.side.training
    assert not any(module.training for module in model.backbone.model.modules())


def test_float16_is_refused_with_the_reason() -> None:
    config = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=16)
    with pytest.raises(ModelError, match="overflow"):
        FrozenBackbone(T5ForConditionalGeneration(config).half())
