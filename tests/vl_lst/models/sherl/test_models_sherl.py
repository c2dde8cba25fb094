"""SHERL's settings, what it starts with, and what it computes of a batch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from vl_lst.backbones.families.bert import Bert
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.errors import ModelError
from vl_lst.methods import get_method
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.sherl.mixing import FeatureMixture
from vl_lst.training.saved_bytes import saved_bytes_by_part

VISUAL = VisualConfig(channels=8, tokens=9, pooled_grid=2)
MakeBackbone = Callable[..., FrozenBackbone]


def build(backbone: FrozenBackbone, **options: Any) -> Any:
    method = get_method("sherl")
    settings = method.options.model_validate({"reduction": 2, "dropout": 0.0, **options})
    heads = {DEFAULT_TASK: HeadConfig(kind="generate")}
    torch.manual_seed(0)
    return method.attach(backbone, settings, visual=VISUAL, heads=heads)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reduction": 5}, "the reduction 5 does not divide the width of the backbone's encoder"),
        ({"encoder_layers": (3,)}, r"layers \[3\] are not ascending, distinct layers"),
        ({"encoder_layers": (1, 0)}, r"layers \[1, 0\] are not ascending, distinct layers"),
        ({"encoder_layers": ()}, r"encoder layers \[\] are not ascending"),
        # The decoder has two blocks, and the last reads the mixture.
        ({"decoder_layers": (1,)}, r"the mixture follows layer 0: expected at least one layer"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    make_backbone: MakeBackbone, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        build(make_backbone(), **options)


def test_it_starts_as_in_the_papers_code(make_backbone: MakeBackbone) -> None:
    model = build(make_backbone(), reduction=1)
    for stack in (model.encoder, model.decoder):
        for name, parameter in stack.mixture.named_parameters():
            if name.endswith("weight"):
                assert parameter.std().item() == pytest.approx(0.01, rel=0.4)
            else:
                assert not parameter.any()
        assert torch.equal(stack.final_norm.weight, torch.ones_like(stack.final_norm.weight))


def test_all_scores_pass_at_first_with_a_bias(make_backbone: MakeBackbone) -> None:
    model = build(make_backbone(), score_bias=0.5)
    assert model.encoder.mixture.score.bias.item() == model.decoder.mixture.score.bias.item() == 0.5


def test_codes_of_zeros_have_finite_gradients() -> None:
    """In the paper's code, they have no redundancy, and scores are divided by it."""
    torch.manual_seed(0)
    mixture = FeatureMixture(3, 4, 2, score_bias=0.1)
    features = torch.randn(3, 2, 5, 4)
    features[1] = 0  # with biases of zero, so is its code
    mixed_NTD: Tensor = mixture(features[0], features[1:], features[2])
    mixed_NTD.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixture.parameters())


def test_only_the_last_block_saves_bytes_for_the_backward_pass(
    make_backbone: MakeBackbone, make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch()
    saved = {}
    for recompute in (False, True):
        model = build(make_backbone(), recompute=recompute).train()
        model.backbone.requires_grad_(False)
        saved[recompute] = saved_bytes_by_part(model, batch, "examples")
    last = f"backbone decoder layer {model.backbone.decoder_depth - 1}"
    for parts in saved.values():
        assert [name for name in parts if name.startswith("backbone")] == [last]
    assert saved[True][last] < saved[False][last]


def test_the_frozen_encoder_runs_once_for_equal_prompts(
    make_backbone: MakeBackbone, make_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch, rows = build(make_backbone()), make_batch(), []
    run = model.backbone.run_encoder
    monkeypatch.setattr(
        model.backbone,
        "run_encoder",
        lambda states, mask: rows.append(len(mask)) or run(states, mask),
    )
    model(batch)
    assert rows == [len(batch.prompt_ids_UT)] != [len(batch)]
    model = build(make_backbone(), backbone_dropout=0.5).train()
    assert not torch.equal(model(batch), model(batch))


class ReadingBert(Bert):
    """BERT that reads image tokens before the text."""

    reads_images = True


def test_an_encoder_without_a_decoder_reads_its_own_images(
    make_batch: Callable[..., Batch],
) -> None:
    config = BertConfig(
        vocab_size=600,
        hidden_size=VISUAL.channels,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
    )
    backbone = FrozenBackbone(BertModel(config, add_pooling_layer=False), ReadingBert())
    method = get_method("sherl")
    options = method.options.model_validate({"reduction": 2})
    heads = {DEFAULT_TASK: HeadConfig(kind="classify", answers=3)}
    model = method.attach(backbone, options, visual=None, heads=heads).eval()
    batch = make_batch().unshare()
    batch = replace(batch, prompt_rows_U=torch.arange(len(batch)))
    assert batch.features_BINF is not None
    other = replace(batch, features_BINF=-batch.features_BINF)
    assert not torch.allclose(model.classify(batch), model.classify(other), atol=1e-4)
