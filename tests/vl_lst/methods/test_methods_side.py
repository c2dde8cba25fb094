"""Side-tuning is the ladder without rungs and runs no layer of the backbone."""

from collections.abc import Callable

import pytest
import torch

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.generation.search import greedy_search
from vl_lst.methods import get_method
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.ladder.model import LadderModel

VISUAL = VisualConfig(channels=8, tokens=9, pooled_grid=2)


def attach(name: str, backbone: FrozenBackbone, **options_of_method: str) -> LadderModel:
    method = get_method(name)
    options = method.options.model_validate({"dropout": 0.0, **options_of_method})
    heads = {DEFAULT_TASK: HeadConfig(kind="generate")}
    model = method.attach(backbone, options, visual=VISUAL, heads=heads)
    assert isinstance(model, LadderModel)
    return model.eval()


def test_it_equals_a_ladder_whose_gates_ignore_the_rungs(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch]
) -> None:
    side, ladder = attach("side", make_backbone()), attach("lst", make_backbone(), rungs="linear")
    ladder.load_state_dict(side.state_dict(), strict=False)
    for stack in (ladder.side.encoder, ladder.side.decoder):
        stack.gates.alpha.data.fill_(float("inf"))  # g = 1
    batch = make_batch()
    torch.testing.assert_close(side(batch), ladder(batch), rtol=0, atol=0)
    assert torch.equal(
        greedy_search(side, batch, max_length=5), greedy_search(ladder, batch, max_length=5)
    )


@pytest.mark.parametrize("random_weights", ["by_width", "small"])
def test_its_blocks_start_like_the_ladders(
    make_backbone: Callable[..., FrozenBackbone], random_weights: str
) -> None:
    """A comparison at one seed differs in the rungs alone."""
    backbone, started = make_backbone(), []
    for name in ("side", "lst"):
        torch.manual_seed(7)
        model = attach(name, backbone, random_weights=random_weights)
        started.append(dict(model.named_parameters()))
    side, ladder = started
    assert set(ladder) - set(side) == {
        f"side.{stack}.{part}"
        for stack in ("encoder", "decoder")
        for part in ("rungs.weight", "rungs.bias", "gates.alpha")
    }
    assert all(torch.equal(parameter, ladder[name]) for name, parameter in side.items())


def test_no_layer_of_the_backbone_runs(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch]
) -> None:
    model, ran = attach("side", make_backbone()), []
    backbone = model.backbone.model
    for block in (*backbone.encoder.block, *backbone.decoder.block):
        block.register_forward_hook(lambda *_: ran.append(1))
    batch = make_batch()
    model(batch)
    greedy_search(model, batch, max_length=5)
    assert not ran
