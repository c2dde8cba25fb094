"""The model that is nothing but its backbone."""

from dataclasses import replace

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from vl_lst.backbones.families.t5 import T5
from vl_lst.errors import ModelError
from vl_lst.models.batch import Batch
from vl_lst.models.untrained import UntrainedModel

CONFIG = T5Config(
    vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0
)


@pytest.fixture
def stock() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    return T5ForConditionalGeneration(CONFIG).eval()


def test_the_text_alone_is_read_as_by_the_stock_model(stock: T5ForConditionalGeneration) -> None:
    """Also if prompts are shared and padded. Images, which nothing would read, are refused."""
    model = UntrainedModel(stock, tasks=["vqa"])
    ids_UT = torch.tensor([[3, 4, 5, 1], [6, 1, 0, 0]])
    index_B = torch.tensor([1, 0, 1])
    batch = Batch(prompt_ids_UT=ids_UT, prompt_index_B=index_B)
    answers_BL = torch.tensor([[0, 2], [0, 3], [0, 4]])
    with torch.no_grad():
        found = model.logits(model.decode(model.encode(batch), answers_BL))
        ids_BT = ids_UT[index_B]
        expected = stock(ids_BT, attention_mask=ids_BT != 0, decoder_input_ids=answers_BL).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match="the batch has images, which a backbone of type t5"):
        model.encode(replace(batch, features_BINF=torch.randn(3, 1, 2, 5)))


def test_nothing_trains_and_nothing_is_added(stock: T5ForConditionalGeneration) -> None:
    model = UntrainedModel(stock, tasks=["vqa", "caption"])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.backbone_reads_images
    assert sum(each.numel() for each in model.parameters()) == stock.num_parameters()
    assert not any(model.own_parameters())


def test_an_encoder_alone_is_refused(stock: T5ForConditionalGeneration) -> None:
    class Encoders(T5):
        has_decoder = False

    with pytest.raises(ModelError, match="has an encoder only, so it cannot answer without train"):
        UntrainedModel(stock, family=Encoders(), tasks=["vqa"])
