"""Properties of every transfer method, including new files in `vl_lst/methods` and the guide's.

More are in `tests/vl_lst/backbones/test_every_method_on_every_backbone.py`.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from guide_methods import guide_methods
from transformers import T5Config, T5ForConditionalGeneration

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.methods import Method, get_method, method_names
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.training.saved_bytes import bytes_saved_for_backward

GUIDE_METHODS = guide_methods()
METHODS = [*method_names(), *GUIDE_METHODS]
HEADS = {
    "generate": HeadConfig(kind="generate"),
    "classify": HeadConfig(kind="classify", answers=5),
}
VISUAL = VisualConfig(channels=8, tokens=9, pooled_grid=2)


def method_named(name: str) -> Method:
    return GUIDE_METHODS.get(name) or get_method(name)


@pytest.mark.parametrize("name", METHODS)
def test_visual_embedding_and_heads_always_train(
    make_backbone: Callable[..., FrozenBackbone], name: str
) -> None:
    method = method_named(name)
    heads = {DEFAULT_TASK: HEADS["classify"]}
    model = method.attach(make_backbone(), method.options(), visual=VISUAL, heads=heads)
    trainable = method.trainable(model)
    chosen = {id(parameter) for parameter in trainable.values()}
    for part in (model.visual, model.classifiers):
        assert all(id(parameter) in chosen for parameter in part.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in trainable.values())


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


@pytest.mark.parametrize("recompute", [False, True])
def test_the_ladder_saves_the_fewest_bytes_for_the_backward_pass(recompute: bool) -> None:
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
            method.options(recompute=recompute),
            visual=VisualConfig(channels=2048, tokens=49),
            heads={DEFAULT_TASK: HEADS["generate"]},
        )
        model.requires_grad_(False)
        for parameter in method.trainable(model).values():
            parameter.requires_grad_(True)
        model.train()
        counted = bytes_saved_for_backward(model, lambda model=model: model(batch))
        saved[name] = counted["total"]
    if recompute:  # the inputs of the blocks, which are the same in all other methods
        assert saved["lst"] < min(saved["bitfit"], saved["lora"], saved["full"])
        return
    assert saved["lst"] < saved["bitfit"] < saved["lora"] < saved["full"]
    assert saved["lst"] < 0.4 * saved["full"]


def test_bitfit_keeps_the_bias_that_an_output_layer_has(
    make_backbone: Callable[..., FrozenBackbone],
) -> None:
    backbone = make_backbone()
    layer = backbone.model.get_output_embeddings()
    layer.bias = torch.nn.Parameter(torch.randn(len(layer.weight)))
    before = layer.bias.detach().clone()
    method = get_method("bitfit")
    model = method.attach(
        backbone, method.options(), visual=VISUAL, heads={DEFAULT_TASK: HEADS["generate"]}
    )
    assert torch.equal(model.backbone.vocabulary_bias, before)
    assert any(parameter is layer.bias for parameter in method.trainable(model).values())
