"""Profiles equal independent counts of bytes, and estimates equal measurements."""

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vl_lst.methods
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.loading import load_backbone
from vl_lst.backbones.quantization import inner_tensors, quantize
from vl_lst.errors import ModelError, RecipeError
from vl_lst.methods import get_method, method_names
from vl_lst.models.config import HeadConfig
from vl_lst.profiling import answering
from vl_lst.profiling.measure import ComparedMethod, ProfileSettings, profile_methods
from vl_lst.profiling.workload import Workload
from vl_lst.recipes.building import attach_method
from vl_lst.training.saved_bytes import saved_bytes_by_part

TINY = Workload(batch_size=2, image_tokens=9, channels=8, pooled_grid=2)
ON_CPU = ProfileSettings(backbone="demo", workload=TINY, steps=0)
PLAIN = ComparedMethod("lst", {"reduction": 4, "recompute": False})


def saved_by_walking_the_graph(loss: Tensor, excluded: set[int]) -> int:
    """Return the bytes held by the nodes of the graph, found from the loss without hooks."""
    storages: dict[int, torch.UntypedStorage] = {}
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node: Any = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [earlier for earlier, _ in node.next_functions]
        values = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        values += getattr(node, "saved_tensors", ())
        for value in values:
            for tensor in value if isinstance(value, tuple | list) else [value]:
                # Python numbers in a formula are tensors here, of Python's types.
                if isinstance(tensor, Tensor) and (tensor.ndim or tensor.dtype == torch.float32):
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage
    return sum(storage.nbytes() for place, storage in storages.items() if place not in excluded)


def kept(name: str) -> ComparedMethod:
    return ComparedMethod(name, {"recompute": False})


class LivingStorages(TorchDispatchMode):
    """Storages that operations create, to find those that live on."""

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._found[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result

    def nbytes(self, excluded: set[int]) -> int:
        return sum(
            nbytes
            for place, (reference, nbytes) in self._found.items()
            if place not in excluded and not reference.expired()
        )


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("method", ["lst", "full", "lora", "qlora", "bitfit"])
def test_saved_bytes_equal_those_that_live_on_after_the_forward_pass(
    method: str, recompute: bool
) -> None:
    """Blocks that are recomputed keep their inputs, and nothing else."""
    options = {"recompute": recompute, **({"reduction": 4} if method == "lst" else {})}
    is_quantized = get_method(method).needs_quantized_backbone
    loaded = load_backbone("demo", precision="bf16" if is_quantized else "fp32")
    model, _ = attach_method(
        method,
        options,
        loaded.backbone,
        visual=TINY.visual(),
        heads={"task": HeadConfig(kind="classify", answers=5)},
        precision="nf4" if is_quantized else "fp32",
    )
    if is_quantized:
        quantize(model.backbone, "nf4")
    model.train()
    batch = replace(TINY.batch(600), scores_BA=torch.rand(2, 5))
    counted = saved_bytes_by_part(model, batch, "examples")["total"]
    given = [*model.parameters(), *model.buffers()]
    owned = {inner.untyped_storage()._cdata for each in given for inner in inner_tensors(each)}
    with LivingStorages() as living:
        loss = model(batch, "examples")
    values = [getattr(batch, each.name) for each in fields(batch)]
    extra = sum(value.nbytes for value in (*values, loss) if isinstance(value, Tensor))
    assert counted <= living.nbytes(owned) <= counted + extra


@pytest.mark.parametrize("method", [PLAIN, kept("full"), kept("bitfit")])
def test_saved_bytes_equal_those_held_by_the_graph(method: ComparedMethod) -> None:
    model, _ = attach_method(
        method.name,
        method.options,
        FrozenBackbone(load_backbone("demo").backbone.model),
        visual=TINY.visual(),
        # A generative head recomputes its logits; reading them from the graph would do so too.
        heads={"task": HeadConfig(kind="classify", answers=5)},
        precision="fp32",
    )
    model.train()
    batch = replace(TINY.batch(600), scores_BA=torch.rand(2, 5))
    excluded = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    counted = saved_bytes_by_part(model, batch, "examples")["total"]
    assert counted == saved_by_walking_the_graph(model(batch, "examples"), excluded)


def test_parameters_gradients_and_moments_by_hand() -> None:
    """AdamW has two moments and a step count of four bytes per trainable tensor."""
    profile, full = profile_methods([PLAIN, ComparedMethod("full")], ON_CPU)
    backbone = load_backbone("demo").backbone
    frozen = sum(parameter.numel() for parameter in backbone.parameters())
    model, trainable = attach_method(
        "lst",
        PLAIN.options,
        backbone,
        visual=TINY.visual(),
        heads={"task": HeadConfig(kind="generate")},
        precision="fp32",
    )
    train = sum(parameter.numel() for parameter in trainable.values())
    assert (profile.trainable, profile.total) == (train, frozen + train)
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    assert profile.parameter_bytes == 4 * (frozen + train) + buffers
    assert profile.gradient_bytes == 4 * train
    assert profile.optimizer_bytes == 8 * train + 4 * len(trainable)
    assert profile.training_bytes == (
        4 * (frozen + train)
        + buffers
        + 12 * train
        + 4 * len(trainable)
        + profile.saved_bytes["total"]
    )
    assert full.trainable == full.total
    assert full.trainable_percent == 100


def test_parts_add_up_and_the_ladder_saves_nothing_in_the_backbone() -> None:
    ladder, full = profile_methods([PLAIN, ComparedMethod("full")], ON_CPU)
    for profile in (ladder, full):
        assert sum(profile.saved_bytes.values()) == 2 * profile.saved_bytes["total"]
    assert set(ladder.saved_bytes) == {
        "visual embedding",
        "side encoder",
        "side encoder rungs",
        "side decoder",
        "side decoder rungs",
        "elsewhere",
        "total",
    }
    layers = {f"backbone {stack} layer {n}" for stack in ("encoder", "decoder") for n in range(3)}
    assert layers < set(full.saved_bytes)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_estimate_equals_the_cpu_count_for_every_method(precision: Any) -> None:
    methods = [
        ComparedMethod(
            name,
            backbone_precision="nf4" if get_method(name).needs_quantized_backbone else None,
        )
        for name in method_names()
    ]
    # Not all default options fit the sizes of the bundled backbone.
    options = {"lst": {"reduction": 4}, "side": {"reduction": 4}}
    methods = [replace(each, options=options.get(each.name, {})) for each in methods]
    settings = replace(ON_CPU, precision=precision)
    measured = profile_methods(methods, settings)
    estimated = profile_methods(methods, replace(settings, estimate=True))
    for real, guess in zip(measured, estimated, strict=True):
        assert guess == real, real.method


@pytest.mark.slow
def test_an_estimate_equals_the_cpu_count_at_t5_small_size() -> None:
    methods = [ComparedMethod("lst"), ComparedMethod("full")]
    workload = Workload(batch_size=2)
    settings = ProfileSettings(backbone="t5-small", random_weights=True, workload=workload, steps=0)
    measured = profile_methods(methods, settings)
    assert profile_methods(methods, replace(settings, estimate=True)) == measured


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_an_estimate_includes_the_size_of_quantized_weights(precision: Any) -> None:
    settings = replace(ON_CPU, backbone_precision=precision)
    measured = profile_methods([PLAIN], settings)
    assert profile_methods([PLAIN], replace(settings, estimate=True)) == measured
    (exact,) = profile_methods([PLAIN], ON_CPU)
    assert measured[0].parameter_bytes < exact.parameter_bytes
    assert measured[0].total == exact.total


@pytest.mark.slow
def test_the_order_of_methods_at_the_shapes_of_the_reference() -> None:
    """The reference implementation saves 330.6, 629.1, 832.3 and 919.9 MiB."""
    methods = [kept(name) for name in ("bitfit", "lora", "full")]
    methods.insert(0, ComparedMethod("lst"))
    settings = ProfileSettings(backbone="t5-base", vocabulary=32_200, estimate=True)
    profiles = profile_methods(methods, settings)
    saved = [profile.saved_bytes["total"] / 2**20 for profile in profiles]
    assert saved == sorted(saved)
    assert saved[1:] == pytest.approx([629.1, 832.3, 919.9], rel=0.03)
    assert saved[0] < 0.5 * 330.6
    assert [round(profile.trainable_percent, 2) for profile in profiles] == [7.46, 0.83, 7.54, 100]


def test_parts_of_a_step_are_timed() -> None:
    (profile,) = profile_methods([PLAIN], replace(ON_CPU, steps=3))
    seconds = profile.seconds
    assert seconds is not None
    assert min(seconds.forward, seconds.backward, seconds.optimizer) > 0
    assert profile.examples_per_second == pytest.approx(2 / seconds.step)
    assert profile.peak_allocated is None


def test_answering_is_measured_with_the_memory_of_two_networks() -> None:
    """And without steps, nothing of it is known but the size of a checkpoint."""
    ladder, full = profile_methods([PLAIN, ComparedMethod("full")], replace(ON_CPU, steps=2))
    for profile in (ladder, full):
        assert profile.seconds_per_answer is not None
        assert profile.seconds_per_answer > 0
        assert profile.inference_bytes is not None
        assert profile.inference_bytes > profile.parameter_bytes
        assert profile.checkpoint_bytes == 4 * profile.trainable
    assert ladder.inference_bytes is not None
    assert full.inference_bytes is not None
    assert ladder.inference_bytes > full.inference_bytes
    (alone,) = profile_methods([PLAIN], ON_CPU)
    assert alone.checkpoint_bytes == ladder.checkpoint_bytes
    assert (alone.inference_bytes, alone.seconds_per_answer) == (None, None)


def test_living_bytes_are_those_of_tensors_alive_at_once() -> None:
    given = torch.zeros(50)
    with answering._LivingBytes([given]) as living:
        view = given[:10].view(2, 5)
        one = torch.ones(100)
        two = torch.ones(100) + 1  # takes 400 bytes more for a moment
        del one
        three = torch.ones(50)
        two.add_(1)
    assert living.peak == 400 + 400 + 400
    assert living._living == 400 + 200
    del view, two, three
    assert living._living == 0


def test_unknown_methods_and_options_are_refused_before_building() -> None:
    nowhere = replace(ON_CPU, backbone="/nowhere")
    with pytest.raises(RecipeError, match="no method 'lts': expected one of: .*lst"):
        profile_methods([ComparedMethod("lts")], nowhere)
    with pytest.raises(RecipeError, match=r"lst.reduction: found 0; .* the options .*reduction"):
        profile_methods([ComparedMethod("lst", {"reduction": 0})], nowhere)


def test_features_that_do_not_fit_the_grid_are_refused() -> None:
    with pytest.raises(ModelError, match="cannot pool 10 feature vectors"):
        profile_methods([PLAIN], replace(ON_CPU, workload=replace(TINY, image_tokens=10)))


METHOD_WITH_FROZEN_FACTORS = """
import torch
from vl_lst.methods.lst import LadderSideTuning

class FrozenFactors(LadderSideTuning):
    def attach(self, backbone, options, *, visual, heads):
        model = super().attach(backbone, options, visual=visual, heads=heads)
        factors = torch.zeros(100, 7)
        for part in (model.side.encoder, model.side.decoder):
            part.register_buffer("factors", factors)
        return model

METHOD = FrozenFactors()
"""


@pytest.mark.parametrize("estimate", [False, True])
def test_shared_frozen_buffers_of_a_method_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimate: bool
) -> None:
    (tmp_path / "frozen_factors.py").write_text(METHOD_WITH_FROZEN_FACTORS)
    monkeypatch.setattr(vl_lst.methods, "__path__", [*vl_lst.methods.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "vl_lst.methods.frozen_factors", raising=False)
    settings = replace(ON_CPU, estimate=estimate)
    plain, more = profile_methods(
        [PLAIN, ComparedMethod("frozen-factors", PLAIN.options)], settings
    )
    assert more.parameter_bytes == plain.parameter_bytes + 4 * 700
    assert more.total == plain.total
