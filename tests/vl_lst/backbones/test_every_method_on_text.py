"""Every transfer method on text alone, without features and without a visual embedding."""

from collections.abc import Callable

import pytest
import torch
from tiny_backbones import tiny_backbones
from tiny_batches import tiny_batch
from tiny_methods import attach, train_declared, variants_on
from torch import Tensor

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.generation.search import greedy_search
from vl_lst.methods import method_names
from vl_lst.models.batch import Batch
from vl_lst.training.saved_bytes import bytes_saved_for_backward

TINY = tiny_backbones()
# A decoder or none, learned or relative positions, an encoder that could read images.
BACKBONES = ("t5", "mbart", "t5gemma", "blip-2", "bert")
PAIRS = [(name, method) for name in BACKBONES for method in (*method_names(), *variants_on(name))]
FROZEN = ("lst", "side", "unipt", "qst", "xladder", "lst merged", "lst from small weights")

MakeTiny = Callable[..., FrozenBackbone]


def text_batch(backbone: FrozenBackbone) -> Batch:
    return tiny_batch(backbone, images=0)


def head_for(name: str, method: str) -> str:
    # A probe trains its head alone, and the output layer that generates belongs to the backbone.
    return "generate" if TINY[name].has_decoder and method != "probe" else "classify"


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_exactly_what_is_declared_trains(make_tiny: MakeTiny, name: str, method: str) -> None:
    model, trainable = attach(method, make_tiny(name), head_for(name, method), has_images=False)
    assert model.visual is None
    train_declared(model, trainable, text_batch(model.backbone), lr=1e-2)


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_numbers_are_learned(make_tiny: MakeTiny, name: str, method: str) -> None:
    model, trainable = attach(method, make_tiny(name), "regress", has_images=False)
    train_declared(model, trainable, text_batch(model.backbone), lr=2e-4)


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_a_number_does_not_depend_on_the_padding(
    make_tiny: MakeTiny, name: str, method: str
) -> None:
    model, _ = attach(method, make_tiny(name), "regress", has_images=False)
    batch = text_batch(model.backbone)
    last_T = batch.prompt_ids_UT[-1]
    alone = Batch(
        prompt_ids_UT=last_T[last_T != model.backbone.pad_token_id][None],
        prompt_index_B=torch.tensor([0]),
    )
    with torch.no_grad():
        found_B, expected_B = model.regress(alone), model.regress(batch)[-1:]
    torch.testing.assert_close(found_B, expected_B, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_a_model_that_also_reads_images_reads_text_alone_as_one_that_does_not(
    make_tiny: MakeTiny, name: str, method: str
) -> None:
    """As in a mixture of tasks with and without images."""
    model, _ = attach(method, make_tiny(name), "regress")
    other, _ = attach(method, make_tiny(name), "regress", has_images=False)
    state = {key: v for key, v in model.state_dict().items() if not key.startswith("visual.")}
    other.load_state_dict(state)
    batch = text_batch(model.backbone)
    with torch.no_grad():
        assert torch.equal(model.regress(batch), other.regress(batch))


@pytest.mark.parametrize("method", FROZEN)
@pytest.mark.parametrize("name", BACKBONES)
def test_nothing_of_a_frozen_backbone_is_saved_for_backward(
    make_tiny: MakeTiny, name: str, method: str
) -> None:
    model, _ = attach(method, make_tiny(name), head_for(name, method), has_images=False)
    batch = text_batch(model.backbone)
    parts = {"backbone": model.backbone.model}
    saved = bytes_saved_for_backward(model.train(), lambda: model(batch), parts)
    assert saved["backbone"] == 0
    assert saved["total"] > 0


@pytest.mark.parametrize("method", FROZEN)
@pytest.mark.parametrize("name", BACKBONES)
def test_equal_texts_run_once_in_a_frozen_backbone(
    make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch, name: str, method: str
) -> None:
    model, _ = attach(method, make_tiny(name), head_for(name, method), has_images=False)
    batch = text_batch(model.backbone)
    rows: dict[str, int] = {}
    for step in ("encode", "decode"):
        run = getattr(model.backbone, step)

        def count(ids: Tensor, *rest: object, step: str = step, run: object = run, **named: object):
            rows[step] = len(ids)
            return run(ids, *rest, **named)  # type: ignore[operator]

        monkeypatch.setattr(model.backbone, step, count)
    model(batch)
    unique = len(batch.prompt_ids_UT)
    assert unique < len(batch)
    assert rows["encode"] == unique
    if TINY[name].has_decoder:
        assert rows["decode"] == len(batch.pair_rows_P) < len(batch)


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name, method in PAIRS if TINY[name].has_decoder]
)
def test_an_answer_does_not_depend_on_the_other_prompts(
    make_tiny: MakeTiny, name: str, method: str
) -> None:
    """The last prompt is shorter than the others, so alone it has no padding."""
    model, _ = attach(method, make_tiny(name), "generate", has_images=False)
    batch = text_batch(model.backbone)
    ids_BL = greedy_search(model, batch, max_length=6)
    kept = batch.prompt_ids_UT[-1:] != model.backbone.pad_token_id
    alone = Batch(
        prompt_ids_UT=batch.prompt_ids_UT[-1:, : int(kept.sum())],
        prompt_index_B=torch.tensor([0]),
    )
    found = greedy_search(model, alone, max_length=6)
    width = min(found.shape[1], ids_BL.shape[1])
    assert torch.equal(found[:, :width], ids_BL[-1:, :width])
