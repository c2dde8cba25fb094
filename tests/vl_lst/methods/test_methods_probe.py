"""Probing trains heads and the visual embedding alone; of text alone, nothing else has a cost."""

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
from vl_lst.profiling.measure import ComparedMethod, ProfileSettings, profile_methods
from vl_lst.profiling.workload import Workload
from vl_lst.recipes.building import attach_method
from vl_lst.training.saved_bytes import saved_bytes_by_part

CLASSIFY = HeadConfig(kind="classify", answers=5)
GENERATE = HeadConfig(kind="generate")
REGRESS = HeadConfig(kind="regress", value_range=(0.0, 5.0))
VISUAL = VisualConfig(channels=8, tokens=9, pooled_grid=2)


def attach(
    method: str,
    backbone: FrozenBackbone,
    heads: Mapping[str, HeadConfig],
    *,
    visual: VisualConfig | None = None,
    precision: Any = "fp32",
) -> tuple[Any, dict[str, torch.nn.Parameter]]:
    return attach_method(method, {}, backbone, visual=visual, heads=heads, precision=precision)


def text_batch(make_batch: Callable[..., Batch]) -> Batch:
    return replace(make_batch(), features_BINF=None)


def test_of_text_alone_only_the_head_is_saved_for_the_backward_pass(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch]
) -> None:
    batch, saved = text_batch(make_batch), {}
    for method in ("probe", "side", "lst", "bitfit", "full"):
        model, _ = attach(method, make_backbone(), {DEFAULT_TASK: CLASSIFY})
        saved[method] = saved_bytes_by_part(model.train(), batch, "examples")
    assert set(saved["probe"]) == {"elsewhere", "total"}
    assert saved["probe"]["total"] == min(each["total"] for each in saved.values())
    assert saved["full"]["total"] > 2 * saved["probe"]["total"]


def test_dropout_in_the_backbone_keeps_it_free_of_gradients(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch]
) -> None:
    method = get_method("probe")
    options = method.options.model_validate({"dropout": 0.5})
    heads = {DEFAULT_TASK: CLASSIFY}
    model = method.attach(make_backbone(), options, visual=None, heads=heads)
    model.requires_grad_(False)
    for parameter in method.trainable(model).values():
        parameter.requires_grad_(True)
    saved = saved_bytes_by_part(model.train(), text_batch(make_batch), "examples")
    assert set(saved) == {"elsewhere", "total"}


@pytest.mark.parametrize("head", [CLASSIFY, REGRESS], ids=lambda head: head.kind)
def test_a_step_changes_the_head_alone(
    make_backbone: Callable[..., FrozenBackbone],
    make_batch: Callable[..., Batch],
    head: HeadConfig,
) -> None:
    model, trainable = attach("probe", make_backbone(), {DEFAULT_TASK: head})
    assert {name.split(".")[0] for name in trainable} <= {"classifiers", "regressors"}
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    batch = text_batch(make_batch)
    batch = replace(batch, values_B=torch.rand(len(batch)))
    model.train()(batch).backward()
    with torch.no_grad():
        for parameter in trainable.values():
            assert parameter.grad is not None
            parameter -= parameter.grad
    changed = {n for n, value in model.named_parameters() if not torch.equal(value, before[n])}
    assert changed == set(trainable)


def test_without_images_a_head_that_generates_is_refused(
    make_backbone: Callable[..., FrozenBackbone],
) -> None:
    heads = {"vqa": CLASSIFY, "caption": GENERATE}
    expected = "the method probe trains nothing for caption, since the head is generate and there"
    with pytest.raises(ModelError, match=expected):
        attach("probe", make_backbone(), heads)
    _, trainable = attach("probe", make_backbone(), heads, visual=VISUAL)
    assert {name.split(".")[0] for name in trainable} == {"classifiers", "visual"}


def test_a_profile_of_all_methods_leaves_out_one_that_trains_nothing() -> None:
    methods = [ComparedMethod("bitfit"), ComparedMethod("probe")]

    def profiled(images: int, *, leave_out: bool) -> list[str]:
        workload = Workload(
            batch_size=2, text_tokens=5, answer_tokens=3, images=images, image_tokens=9, channels=8,
            pooled_grid=3,
        )  # fmt: skip
        settings = ProfileSettings(backbone="demo", workload=workload, steps=0, estimate=True)
        found = profile_methods(methods, settings, leave_out_untrained=leave_out)
        return [profile.method for profile in found]

    assert profiled(0, leave_out=True) == ["bitfit"]
    assert profiled(1, leave_out=True) == ["bitfit", "probe"]
    with pytest.raises(ModelError, match="the method probe trains nothing for task"):
        profiled(0, leave_out=False)
