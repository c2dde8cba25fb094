"""VeRA equals that of `peft`, with random projections that only depend on their seed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import VeraConfig, get_peft_model
from torch import Tensor

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.methods import get_method
from vl_lst.models.batch import DEFAULT_TASK
from vl_lst.models.config import HeadConfig

MakeBackbone = Callable[..., FrozenBackbone]
RANK = 5


def attach(make_backbone: MakeBackbone, **options: Any) -> Any:
    method = get_method("vera")
    settings = method.options.model_validate({"rank": RANK, "dropout": 0.0, **options})
    heads = {DEFAULT_TASK: HeadConfig(kind="generate")}
    return method.attach(make_backbone(), settings, visual=None, heads=heads)


def disturb(model: Any) -> None:
    """Draw the trained vectors by their names; the initial update is zero."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in sorted(model.named_parameters()):
        if "vera_lambda" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)


def logits(model: Any) -> Tensor:
    ids_UT = torch.arange(2, 14).view(2, 6)
    with torch.no_grad():
        result: Tensor = model.eval()(input_ids=ids_UT, decoder_input_ids=ids_UT[:, :3]).logits
    return result


def projections(model: Any) -> list[Tensor]:
    names = ("vera_A.default", "vera_B.default")
    return [value for name, value in model.named_buffers() if name.endswith(names)]


# A deprecated attribute of transformers, which peft reads.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_the_model_equals_that_of_peft(make_backbone: MakeBackbone) -> None:
    model = attach(make_backbone)
    theirs: Any = get_peft_model(
        make_backbone().model, VeraConfig(r=RANK, target_modules=["q", "v"])
    )
    stock = logits(make_backbone().model)
    assert torch.equal(logits(model.backbone.model), stock)
    disturb(model.backbone.model)
    disturb(theirs.base_model.model)
    found = logits(model.backbone.model)
    assert torch.equal(found, logits(theirs))
    assert not torch.allclose(found, stock, atol=1e-3)


def test_the_projections_are_shared_frozen_and_drawn_from_the_seed_alone(
    make_backbone: MakeBackbone,
) -> None:
    torch.manual_seed(1)
    first = attach(make_backbone)
    torch.manual_seed(2)
    second, other = attach(make_backbone), attach(make_backbone, projection_seed=1)
    assert len(projections(first)) == 2  # buffers that layers share are listed once
    for mine, again, drawn in zip(*map(projections, (first, second, other)), strict=True):
        assert torch.equal(mine, again)
        assert not torch.equal(mine, drawn)
    assert all("vera_A" not in name for name in get_method("vera").trainable(first))
