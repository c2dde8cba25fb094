"""Sublayers of backbones of every family: where they read the residual stream and add to it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_backbones import tiny_backbones
from tiny_batches import prompt_ids
from torch import Tensor, nn

from vl_lst.backbones.backbone import Backbone
from vl_lst.backbones.frozen import FrozenBackbone

TINY = tiny_backbones()


def run(backbone: Backbone) -> None:
    ids_UT = prompt_ids(backbone)
    with torch.no_grad():
        states_UTD = backbone.run_encoder(*backbone.encoder_input(ids_UT))
        if backbone.has_decoder:
            embedding_ULD = backbone.embed_answer(ids_UT[:, :3])
            backbone.run_decoder(embedding_ULD, states_UTD, ids_UT != backbone.pad_token_id, None)


@pytest.mark.parametrize("name", TINY)
def test_the_stream_and_the_output_add_up_to_the_input_of_a_norm(
    make_tiny: Callable[..., FrozenBackbone], name: str
) -> None:
    """Of the next norm, in blocks with norms before, and of the same block's in others."""
    backbone = make_tiny(name)
    sublayers, norms = backbone.sublayers(), list(backbone.family.norms(backbone.model))
    inputs: dict[nn.Module, list[Tensor]] = {}
    outputs: dict[nn.Module, Tensor] = {}

    def record(module: nn.Module, positional: tuple[Tensor, ...], output: Any) -> None:
        inputs.setdefault(module, []).extend(positional[:1])
        outputs[module] = output[0] if isinstance(output, tuple) else output

    watched = {*norms}.union(*({each.reader, each.module} for each in sublayers))
    for module in watched:
        module.register_forward_hook(record)
    run(backbone)
    read = [states for norm in norms for states in inputs[norm]]
    for sublayer in sublayers:
        (stream,) = inputs[sublayer.reader]
        total = stream + outputs[sublayer.module]
        same_shape = (states for states in read if states.shape == total.shape)
        assert any(torch.allclose(total, states, atol=1e-5) for states in same_shape)
