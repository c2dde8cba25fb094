"""Checkpoints of the reference implementation become models and back, for images and for text."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.errors import CheckpointError
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig, LadderConfig
from vl_lst.models.ladder.model import LadderModel
from vl_lst.models.reference_checkpoint import from_reference, reference_names, to_reference

SIDE: Mapping[str, Any] = {
    "task_reduction_factor": 4,
    "encoder_side_layers": [1, 2],
    "decoder_side_layers": [0, 1],
    "add_residual_after": False,
    "side_downsample_pool": False,
    "add_bias_sampling": True,
    "use_gate": "learnable",
    "gate_T": 0.2,
    "gate_alpha": 0,
    "merge_last": False,
    "create_side_lm": False,
}


def configuration(*, gated: bool = False, tied: bool = True, **side: Any) -> dict[str, Any]:
    return {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "vocab_size": 64,
        "dropout_rate": 0.1,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "tie_word_embeddings": tied,
        "side_config": {**SIDE, **side},
    }


def written(config: Mapping[str, Any], **ladder: Any) -> tuple[LadderModel, dict[str, Tensor]]:
    """Return a random model for text, and its tensors by the reference's names."""
    torch.manual_seed(5)
    known = {name: value for name, value in config.items() if name != "side_config"}
    t5 = T5ForConditionalGeneration(T5Config(**known))
    if not config["tie_word_embeddings"]:
        t5.lm_head.weight = torch.nn.Parameter(torch.randn_like(t5.lm_head.weight))
    settings = {"rungs": "linear", "gate_temperature": 0.2, **ladder}
    model = LadderModel(
        FrozenBackbone(t5),
        visual=None,
        ladder=LadderConfig(reduction=4, encoder_layers=(1, 2), decoder_layers=(0, 1), **settings),
        head=HeadConfig(kind="generate"),
    ).eval()
    trainable = model.trainable()
    with torch.no_grad():
        for parameter in trainable.values():
            parameter += 0.1 * torch.randn_like(parameter)
    state = dict(t5.state_dict())
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        if torch.equal(state[name], state["shared.weight"]):
            del state[name]
    return model, {**state, **to_reference(model, trainable)}


def losses(model: LadderModel, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.token_losses(replace(batch, features_BINF=None))


@pytest.mark.parametrize(
    ("changes", "ladder"),
    [
        ({}, {}),
        ({"merge_last": True}, {"merge_last": True}),
        ({"gated": True}, {}),
        ({"gated": True, "tied": False}, {}),
        ({"add_residual_after": True}, {"rung_place": "after_block"}),
        ({"side_downsample_pool": True}, {"rungs": "pool"}),
    ],
)
def test_a_checkpoint_for_text_is_read_as_it_was_written(
    make_batch: Any, changes: dict[str, Any], ladder: dict[str, Any]
) -> None:
    config = configuration(**changes)
    model, state = written(config, **ladder)
    read = from_reference(state, config).eval()
    assert read.visual is None
    assert reference_names(read) <= set(state)
    assert torch.equal(losses(read, make_batch()), losses(model, make_batch()))
    again = to_reference(read, read.trainable())
    assert again.keys() == to_reference(model, model.trainable()).keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.items())


def test_the_last_gate_is_one_number_of_the_reference() -> None:
    config = configuration(merge_last=True)
    _, state = written(config, merge_last=True)
    assert state["side_gate_params_merge_last"].shape == (1,)
    del state["side_gate_params_merge_last"]
    with pytest.raises(CheckpointError, match="lacks the tensor 'side_gate_params_merge_last'"):
        from_reference(state, config)


def test_gates_of_one_cut_the_rungs_off_and_do_not_train(make_batch: Any) -> None:
    """As learned gates that are open, up to the names and the gradients."""
    model, state = written(configuration(merge_last=True), merge_last=True)
    for stack in (model.side.encoder, model.side_decoder):
        stack.gates.alpha.data.fill_(float("inf"))
    without = {name: tensor for name, tensor in state.items() if "gate_params." not in name}
    read = from_reference(without, configuration(merge_last=True, use_gate="one")).eval()
    assert torch.equal(losses(read, make_batch()), losses(model, make_batch()))
    assert reference_names(read) == reference_names(model) & set(without)
    read.token_losses(replace(make_batch(), features_BINF=None)).sum().backward()
    gradients = to_reference(read, {n: p.grad for n, p in read.trainable().items()})
    assert not gradients["encoder.side_downsamples.1.weight"].any()
    assert gradients["side_gate_params_merge_last"].any()


def test_without_gates_rungs_are_added(make_batch: Any) -> None:
    _, state = written(configuration())
    for name in [name for name in state if "gate_params" in name]:
        del state[name]
    read = from_reference(state, configuration(use_gate="none")).eval()
    cut = from_reference(state, configuration(use_gate="one")).eval()
    assert not torch.allclose(losses(read, make_batch()), losses(cut, make_batch()))
    rung, states = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mixed = read.side.encoder.gates(0, rung, states)
    assert torch.equal(mixed[:, :3], states[:, :3] + rung)
    assert torch.equal(mixed[:, 3:], states[:, 3:])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_gate": "schedule"}, "use_gate .* is 'schedule': expected learnable or one of one"),
        ({"create_side_lm": True}, "create_side_lm .* is True: expected False"),
        ({"add_bias_sampling": False}, "add_bias_sampling .* is False: expected True"),
    ],
)
def test_settings_of_no_experiment_are_refused(changes: dict[str, Any], words: str) -> None:
    _, state = written(configuration())
    with pytest.raises(CheckpointError, match=words):
        from_reference(state, configuration(**changes))
