"""With `merge_last`, heads read a mixture of the final states of side network and backbone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig, LadderConfig
from vl_lst.models.ladder.model import LadderModel

MakeModel = Callable[..., LadderModel]
MakeBatch = Callable[..., Batch]


def set_last_gate(model: LadderModel, alpha: float) -> None:
    assert model.side.last_gate is not None
    model.side.last_gate.alpha.data.fill_(alpha)


@pytest.mark.parametrize("gates", ["scalar", "channel"])
def test_an_open_gate_ignores_the_backbones_final_states(
    make_model: MakeModel, make_batch: MakeBatch, gates: str
) -> None:
    plain, merged = make_model(gates=gates), make_model(gates=gates, merge_last=True)
    missing, unexpected = merged.load_state_dict(plain.state_dict(), strict=False)
    assert (missing, unexpected) == (["side.last_gate.alpha"], [])
    set_last_gate(merged, float("inf"))
    batch = make_batch()
    assert torch.equal(merged.token_losses(batch), plain.token_losses(batch))


def test_a_closed_gate_gives_the_backbones_own_logits(
    make_model: MakeModel, make_batch: MakeBatch
) -> None:
    model, batch = make_model(merge_last=True), make_batch()
    set_last_gate(model, -float("inf"))
    t5 = model.backbone.model
    ids_BT = batch.prompt_ids_UT[batch.prompt_index_B]
    expected = t5(
        input_ids=ids_BT,
        attention_mask=(ids_BT != 0).long(),
        decoder_input_ids=model.backbone.shift_right(batch.labels_BL),
    ).logits
    states = model.decode(
        model.encode(batch),
        model.backbone.shift_right(batch.labels_BL),
        batch.pair_rows_P,
        batch.pair_index_B,
    )
    torch.testing.assert_close(model.logits(states), expected, rtol=1e-5, atol=1e-5)


def test_the_gate_starts_as_the_others(make_model: MakeModel) -> None:
    model = make_model(merge_last=True, gate_start=0.7)
    assert model.side.last_gate.value(0).item() == pytest.approx(0.7)


def test_a_classifier_on_a_decoder_reads_states_of_the_backbones_width(
    make_model: MakeModel, make_batch: MakeBatch
) -> None:
    model, batch = make_model("classify", merge_last=True), make_batch()
    classifier: Any = model.classifiers["task"]
    assert classifier.layers[0].in_features == model.backbone.output_width
    set_last_gate(model, -float("inf"))
    start = torch.zeros(len(batch), 1, dtype=torch.long)
    ids_BT = batch.prompt_ids_UT[batch.prompt_index_B]
    states = model.backbone.model(
        input_ids=ids_BT,
        attention_mask=(ids_BT != 0).long(),
        decoder_input_ids=start,
        output_hidden_states=True,
    ).decoder_hidden_states[-1][:, 0]
    torch.testing.assert_close(model.classify(batch), classifier(states), rtol=1e-4, atol=1e-5)
    model.classify(batch).sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == set(model.trainable())
    assert "side.upsample.weight" in with_gradient


def test_a_head_on_an_encoder_reads_its_final_state_too() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
    backbone = FrozenBackbone(BertModel(config, add_pooling_layer=False))
    model = LadderModel(
        backbone,
        visual=None,
        ladder=LadderConfig(reduction=2, merge_last=True, dropout=0.0),
        head=HeadConfig(kind="regress", value_range=(0.0, 5.0)),
    ).eval()
    assert isinstance(model.side.upsample, nn.Linear)
    set_last_gate(model, -float("inf"))
    prompts_UT = torch.tensor([[5, 6, 7], [8, 9, 0]])
    batch = Batch(prompt_ids_UT=prompts_UT, prompt_index_B=torch.tensor([1, 0, 1]))
    states = backbone.encode(prompts_UT, []).final_UTD[:, 0]
    expected = model.regressors["task"](states)[batch.prompt_index_B]
    torch.testing.assert_close(model.regress(batch), expected)
