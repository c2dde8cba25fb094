"""xLadder connects the top layers of the backbone to its first blocks; the others are free."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.errors import ModelError
from vl_lst.methods import get_method
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.ladder.model import LadderModel
from vl_lst.training.saved_bytes import saved_bytes_by_part

VISUAL = VisualConfig(channels=8, tokens=9, pooled_grid=2)
# The small backbone has three encoder layers and two decoder layers.
ALL: Mapping[str, Any] = {
    "encoder_layers": (0, 1, 2),
    "decoder_layers": (0, 1),
    "free_blocks": 0,
}


def attach(name: str, backbone: FrozenBackbone, **chosen: Any) -> LadderModel:
    method = get_method(name)
    torch.manual_seed(0)
    model = method.attach(
        backbone,
        method.options.model_validate({"dropout": 0.0, **chosen}),
        visual=VISUAL,
        heads={DEFAULT_TASK: HeadConfig(kind="generate")},
    )
    assert isinstance(model, LadderModel)
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"rung_place": "after_block", "gates": "channel"}])
def test_with_all_layers_and_no_free_blocks_it_is_the_ladder(
    make_backbone: Callable[..., FrozenBackbone],
    make_batch: Callable[..., Batch],
    options: dict[str, Any],
) -> None:
    cross = attach("xladder", make_backbone(), **ALL, **options)
    ladder = attach("lst", make_backbone(), **options)
    batch, gradients = make_batch(), []
    assert cross.trainable().keys() == ladder.trainable().keys()
    for model in (cross, ladder):
        loss = model.train()(batch)
        loss.backward()
        gradients.append([loss, *(p.grad for p in model.trainable().values())])
    for ours, theirs in zip(*gradients, strict=True):
        assert ours is not None
        assert torch.equal(ours, theirs)


def test_the_top_half_is_connected_to_the_first_blocks(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch]
) -> None:
    model, batch = attach("xladder", make_backbone()), make_batch()
    encoder, decoder = model.side.encoder, model.side_decoder
    assert (encoder.layers, len(encoder.blocks)) == ((1, 2), 4)
    assert (decoder.layers, len(decoder.blocks)) == ((1,), 2)
    rungs: Any = encoder.rungs
    assert len(rungs.weight) == 2
    seen: dict[str, torch.Tensor] = {}

    def record(row: int) -> None:
        block = encoder.blocks[row]
        block.register_forward_hook(lambda _m, _i, output: seen.update({f"out {row}": output}))
        block.register_forward_pre_hook(lambda _m, inputs: seen.update({f"in {row}": inputs[0]}))

    for row in range(4):
        record(row)
    model.encode(batch)
    assert not torch.equal(seen["in 1"], seen["out 0"]), "a rung is mixed in between"
    assert torch.equal(seen["in 2"], seen["out 1"])
    assert torch.equal(seen["in 3"], seen["out 2"])


def test_free_blocks_are_recomputed_and_counted(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch]
) -> None:
    """Recomputed, a free block saves its input alone."""
    saved = {}
    for recompute in (True, False):
        for free in (1, 2):
            model = attach("xladder", make_backbone(), free_blocks=free, recompute=recompute)
            parts = saved_bytes_by_part(model.train(), make_batch(), "examples")
            saved[recompute, free] = parts["side encoder"]
    batch = make_batch()
    tokens = batch.prompt_ids_UT.shape[1] + 4  # and those of one image
    state = 4 * len(batch) * tokens * 8
    assert saved[True, 2] - saved[True, 1] == state
    assert saved[False, 2] - saved[False, 1] > 5 * state


def test_the_number_of_free_blocks_is_that_of_each_stack(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch]
) -> None:
    model = attach("xladder", make_backbone(), free_blocks=3)
    assert [len(model.side.encoder.blocks), len(model.side_decoder.blocks)] == [5, 4]
    batch = replace(make_batch(), features_BINF=None)
    assert torch.isfinite(model(batch))


def test_layers_that_the_backbone_lacks_are_refused(
    make_backbone: Callable[..., FrozenBackbone],
) -> None:
    with pytest.raises(ModelError, match=r"the decoder layers \[1, 2\] are not .* decoder has 2"):
        attach("xladder", make_backbone(), decoder_layers=(1, 2))


def test_options_of_the_ladder_that_make_no_sense_are_not_offered() -> None:
    """Blocks copied from backbone layers need a layer each."""
    offered = get_method("xladder").options.model_fields
    assert not {"initialisation", "initialisation_samples", "random_weights"} & set(offered)
