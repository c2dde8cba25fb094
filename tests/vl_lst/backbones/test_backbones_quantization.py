"""A quantized backbone: error, size, and what is refused."""

import copy
import sys

import pytest
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.loading import load_backbone
from vl_lst.backbones.quantization import (
    bytes_freed_by_quantization,
    inner_tensors,
    model_bytes,
    quantize,
)
from vl_lst.bundled import T5_FOLDER
from vl_lst.choices import BackbonePrecision
from vl_lst.errors import ModelError
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.recipes.building import attach_method


def held_bytes(tensor: torch.Tensor) -> int:
    return sum(inner.nbytes for inner in inner_tensors(tensor))


def small_t5(width: int = 64) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = T5Config(
        d_model=width,
        d_kv=16,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        vocab_size=96,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config).to(torch.bfloat16).eval().requires_grad_(False)


def all_bytes(model: nn.Module) -> int:
    return sum(held_bytes(parameter) for parameter in model.parameters())


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("bf16", 0.01), ("int8", 0.02), ("nf4", 0.15)]
)
def test_states_of_a_quantized_backbone_are_close(precision: str, tolerance: float) -> None:
    ids_UT = torch.randint(3, 600, (8, 15), generator=torch.Generator().manual_seed(0))
    folder = str(T5_FOLDER)
    exact = load_backbone(folder).backbone.encode(ids_UT, [0]).final_UTD
    other = load_backbone(folder, precision=precision).backbone.encode(ids_UT, [0]).final_UTD  # type: ignore[arg-type]
    assert other.dtype == torch.bfloat16
    assert 0 < float((other.float() - exact).norm() / exact.norm()) < tolerance


@pytest.mark.parametrize(("precision", "share"), [("int8", 0.55), ("nf4", 0.3)])
def test_block_weights_shrink_and_the_embedding_does_not(precision: str, share: float) -> None:
    model = small_t5()
    before, table = all_bytes(model), model.get_input_embeddings().weight.clone()
    backbone = FrozenBackbone(model)
    expected = bytes_freed_by_quantization(backbone, precision)  # type: ignore[arg-type]
    count = sum(parameter.numel() for parameter in model.parameters())
    quantize(backbone, precision)  # type: ignore[arg-type]
    assert before - all_bytes(model) == expected, "the estimate equals what quantizing saves"
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    layer = model.encoder.block[0].layer[0].SelfAttention.q.weight
    assert held_bytes(layer) < share * 2 * layer.numel()
    assert torch.equal(model.get_input_embeddings().weight, table)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_change_nothing(precision: BackbonePrecision) -> None:
    model = small_t5()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    backbone = FrozenBackbone(model)
    assert bytes_freed_by_quantization(backbone, precision) == 0
    quantize(backbone, precision)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_the_same_weights_have_the_same_fingerprint(precision: str) -> None:
    first = load_backbone("demo", precision=precision).fingerprint  # type: ignore[arg-type]
    assert first == load_backbone("demo", precision=precision).fingerprint  # type: ignore[arg-type]
    assert first != load_backbone("demo", precision="bf16").fingerprint


def test_one_fingerprint_is_the_same_in_every_precision() -> None:
    loaded = {name: load_backbone("demo", precision=name) for name in ("fp32", "bf16", "nf4")}  # type: ignore[arg-type]
    assert len({each.fingerprint for each in loaded.values()}) == 3
    assert {each.fingerprint_bf16 for each in loaded.values()} == {loaded["bf16"].fingerprint}


def test_a_weight_that_does_not_divide_into_blocks_is_refused() -> None:
    with pytest.raises(ModelError, match="multiple of 64 numbers; use int8"):
        quantize(FrozenBackbone(small_t5(width=18)), "nf4")


def test_a_missing_torchao_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ModelError, match="pip install torchao"):
        quantize(FrozenBackbone(small_t5()), "int8")


def attach(method: str, precision: str) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    return attach_method(
        method,
        {"reduction": 4} if method == "lst" else {},
        FrozenBackbone(small_t5()),
        visual=VisualConfig(channels=8, tokens=9, pooled_grid=2),
        heads={"task": HeadConfig(kind="generate")},
        precision=precision,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_the_ladder_trains_in_float32_beside_a_quantized_backbone(precision: str) -> None:
    from vl_lst.profiling.workload import Workload

    model, trainable = attach("lst", precision)
    plain = copy.deepcopy(model)
    quantize(model.backbone, precision)  # type: ignore[union-attr, arg-type]
    workload = Workload(batch_size=2, image_tokens=9, channels=8, pooled_grid=2)
    batch = workload.batch(96)
    loss = model.eval()(batch, "examples")
    assert loss.item() == pytest.approx(plain.eval()(batch, "examples").item(), rel=0.05)
    loss.backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == set(trainable)
    assert all(parameter.dtype == torch.float32 for parameter in trainable.values())


def test_model_bytes_count_shared_storage_once() -> None:
    """A method may share one frozen buffer, or slices of it, between layers."""
    model = nn.Module()
    model.first, model.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    model.second.weight = model.first.weight
    assert model_bytes(model) == 64
    factors = torch.zeros(8, 4)
    model.first.register_buffer("factor", factors, persistent=False)
    model.second.register_buffer("factor", factors.view(4, 8))
    assert model_bytes(model) == 64 + 128
    model.second.register_buffer("part", factors[2:5])
    assert model_bytes(model) == 64 + 128, "a part of a storage that is counted already"
    model.first.register_buffer("row", torch.zeros(100, 4)[3])
    assert model_bytes(model) == 64 + 128 + 16, "only the used part of a larger storage"
    assert model_bytes(model.to("meta")) > 0
