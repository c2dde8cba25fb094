"""mT5, umT5 and ByT5 as published, with an output layer of their own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_batches import tiny_batch
from tiny_methods import attach
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    ByT5Tokenizer,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from vl_lst.backbones.families.t5 import HAS_CAUSAL_UMT5
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.loading import load_backbone
from vl_lst.generation.search import greedy_search
from vl_lst.methods import method_names
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.joint import JointBackbone, JointEncoding, JointModel

RELATIVES = ("mt5", "byt5", *(("umt5",) if HAS_CAUSAL_UMT5 else ()))
CLASSES: dict[str, Any] = {
    "mt5": (MT5Config, MT5ForConditionalGeneration),
    "umt5": (UMT5Config, UMT5ForConditionalGeneration),
    "byt5": (T5Config, T5ForConditionalGeneration),
}
VISUAL = VisualConfig(channels=4, tokens=4, pooled_grid=None)


def build(name: str) -> Any:
    """Return a random model; ByT5 has a deeper encoder than decoder."""
    torch.manual_seed(4)
    config, model = CLASSES[name]
    built = model(
        config(
            vocab_size=384 if name == "byt5" else 50,
            d_model=16,
            d_kv=4,
            d_ff=24,
            num_layers=6 if name == "byt5" else 2,
            num_decoder_layers=2,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
            tie_word_embeddings=False,
        )
    )
    built.lm_head.weight = nn.Parameter(torch.randn_like(built.lm_head.weight))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return built.eval()


def write_folder(name: str, folder: Path) -> Any:
    """Write a checkpoint with a tokenizer; return the model."""
    model = build(name)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("scale_decoder_outputs", None)
    # As published; transformers 5 writes something else.
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    if name == "byt5":
        ByT5Tokenizer().save_pretrained(folder)
        return model
    ids = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"w{number}": number for number in range(3, 50)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return model


def prompts() -> Tensor:
    ids = torch.randint(3, 50, (4, 9), generator=torch.Generator().manual_seed(1))
    ids[1, 4:] = 0
    return ids


def batch() -> Batch:
    ids = prompts()
    return Batch(
        features_BINF=torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(2)),
        prompt_ids_UT=ids,
        prompt_index_B=torch.arange(4),
        labels_BL=ids[:, :3],
        pair_rows_P=torch.arange(4),
        pair_index_B=torch.arange(4),
        weights_B=torch.ones(4),
    )


@pytest.mark.parametrize("name", RELATIVES)
def test_a_loaded_relative_has_the_stock_models_states_and_answers(
    name: str, tmp_path: Path
) -> None:
    stock = write_folder(name, tmp_path)
    loaded = load_backbone(str(tmp_path)).backbone
    ids = prompts()
    layers = range(loaded.encoder_depth)
    with torch.no_grad():
        expected = stock.encoder(
            input_ids=ids, attention_mask=(ids != 0).long(), output_hidden_states=True
        )
    found = loaded.encode(ids, layers)
    assert len(expected.hidden_states) == loaded.encoder_depth + 1
    for layer in layers[:-1]:
        torch.testing.assert_close(
            found.blocks_KUTD[layer], expected.hidden_states[layer + 1], rtol=1e-5, atol=1e-5
        )
    torch.testing.assert_close(found.final_UTD, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    assert torch.equal(loaded.vocabulary_weight, stock.lm_head.weight)
    assert not torch.equal(loaded.vocabulary_weight, stock.shared.weight)
    assert loaded.vocabulary_scale == 1.0

    joint = JointModel(
        JointBackbone(loaded.model, dropout=0.0), visual=VISUAL, head=HeadConfig(kind="generate")
    ).eval()
    joint.encode = lambda _: JointEncoding(found.final_UTD, found.mask_UT, 0)
    answers = greedy_search(joint, batch(), max_length=8)
    generated = stock.generate(
        input_ids=ids, attention_mask=(ids != 0).long(), max_length=8, num_beams=1
    )
    assert torch.equal(answers, generated)


@pytest.mark.parametrize("method", method_names())
def test_every_method_trains_byt5(method: str) -> None:
    """The others are among the tiny backbones, on which every method is tested more closely."""
    model, trainable = attach(method, FrozenBackbone(build("byt5")), "generate")
    model.train()
    model(tiny_batch(model.backbone)).backward()
    assert {k for k, p in model.named_parameters() if p.grad is not None} == set(trainable)


def test_image_tokens_have_no_positions_in_any_block() -> None:
    """umT5 has a table of positions in every block."""
    model = build("umt5")
    joint = JointBackbone(model, dropout=0.0)
    assert len(list(joint.family.position_tables(model))) == 4
    embedding = torch.randn(1, 7, 16)
    mask = torch.ones(1, 7, dtype=torch.bool)
    order = torch.tensor([0, 1, 2, 3, 6, 4, 5])
    with torch.no_grad():
        states = joint.encode(embedding, mask, text=4)
        shuffled = joint.encode(embedding[:, order], mask, text=4)
        ordered = joint.encode(embedding, mask, text=None)
    torch.testing.assert_close(states[:, order], shuffled, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(states, ordered, rtol=1e-3, atol=1e-3)


def test_learned_tokens_enter_the_encoder_as_they_are() -> None:
    """Even a division by 1 would change how gradients are rounded, and so the weights of runs."""
    tokens = torch.randn(2, 3, 16, requires_grad=True)
    assert JointBackbone(build("mt5"), dropout=0.0).learned_input(tokens, tokens) is tokens
