"""VL-PET's modules in stock layers equal the original classes; fixtures in `golden/rivals`."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from golden_tensors import assert_near, without_prefix
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import T5Config
from transformers.models.t5.modeling_t5 import (
    T5LayerCrossAttention,
    T5LayerFF,
    T5LayerSelfAttention,
)

from vl_lst.models.joint import EncoderMask
from vl_lst.models.vl_pet import (
    GatedAdapter,
    GateSize,
    ValueAdapter,
    adapt_sublayer,
    adapt_values,
)

SIZES = get_args(GateSize)
# Names of a gate's parameters, here and in the original code.
GATES = {
    "small": {"gate.score": "gating_small_xy_cat"},
    "middleX": {"gate.score": "gating_middle_xy_add"},
    "middleY": {"gate.offset_D": "gating_middle_ia3_add"},
    "large": {"gate.bottleneck.0": "gating_large_x_down", "gate.bottleneck.2": "gating_large_x_up"},
}


def config_of(fields: dict[str, Any]) -> T5Config:
    return T5Config(
        d_model=fields["d_model"],
        d_kv=fields["d_kv"],
        num_heads=fields["heads"],
        d_ff=fields.get("d_ff", 8),
        relative_attention_num_buckets=fields.get("buckets", 8),
        dropout_rate=0.0,
    )


def additive(mask_BS: Tensor) -> Tensor:
    return (1 - mask_BS[:, None, None].float()) * torch.finfo(torch.float32).min


def ours(tensors: dict[str, Tensor], size: str, place: str, heads: int) -> dict[str, Tensor]:
    """Return an adapter's parameters, or their gradients, by their names here.

    Several layers down, side by side, are one layer.
    """
    names = {"bottleneck.2": f"{place}_adapter_multihead_up"}
    names |= {mine: f"encoder_{place}_adapter_{theirs}" for mine, theirs in GATES[size].items()}
    found = {}
    for part in ("weight", "bias"):
        downs = [tensors[f"{place}_adapter_multihead_down.{n}.{part}"] for n in range(heads)]
        found[f"bottleneck.0.{part}"] = torch.cat(downs)
        for mine, theirs in names.items():
            if theirs in tensors:
                found[mine] = tensors[theirs]
            else:
                found[f"{mine}.{part}"] = tensors[f"{theirs}.{part}"]
    return found


def stock(tensors: dict[str, Tensor], layer: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a stock layer, which has the names of the original code."""
    return {key: tensors[key] for key in layer.state_dict()}


@pytest.mark.parametrize("kind", ["self", "ff"])
@pytest.mark.parametrize("size", SIZES)
def test_an_encoder_sublayer_equals_the_original(golden: Path, size: Any, kind: str) -> None:
    fields = json.loads((golden / "rivals" / "vlpet_encoder.json").read_text())["config"]
    everything = load_file(golden / "rivals" / "vlpet_encoder.safetensors")
    tensors = without_prefix(everything, f"{size}.{kind}.")
    state, gradients = without_prefix(tensors, "state."), without_prefix(tensors, "grad.")
    config, place = config_of(fields), {"self": "attn", "ff": "ff"}[kind]
    layer: Any = T5LayerFF(config)
    if kind == "self":
        layer = T5LayerSelfAttention(config, has_relative_attention_bias=True)
    layer.load_state_dict(stock(state, layer))
    names = stock(gradients, layer).keys()
    mask = EncoderMask()
    adapter = GatedAdapter(
        fields["d_model"],
        size=size,
        bottleneck=fields["bottleneck"],
        gate_bottleneck=fields["gate_bottleneck"],
        scale=fields["scaling"],
        mask=mask,
    )
    adapter.load_state_dict(ours(state, size, place, fields["bottleneck_heads"]))
    parameters = {name: layer.get_parameter(name) for name in names}
    adapt_sublayer(
        layer.SelfAttention if kind == "self" else layer.DenseReluDense, layer.layer_norm, adapter
    )
    x = tensors["in.x"].clone().requires_grad_(True)
    # The original's mean over tokens includes padding.
    with mask.set(torch.ones(x.shape[:2], dtype=torch.bool)):
        y = layer(x, attention_mask=additive(tensors["in.mask"]))[0] if kind == "self" else layer(x)
    assert_near(y, tensors["out.y"], 1e-5)
    y.sum().backward()
    assert_near(x.grad, gradients["x"], 1e-4)
    for name, parameter in parameters.items():
        assert_near(parameter.grad, gradients[name], 1e-4)
    expected = ours(gradients, size, place, fields["bottleneck_heads"])
    for name, parameter in adapter.named_parameters():
        assert_near(parameter.grad, expected[name], 1e-4)


def test_cross_attention_with_adapted_values_equals_the_original(golden: Path) -> None:
    fields = json.loads((golden / "rivals" / "vlpet_decoder.json").read_text())["config"]
    tensors = load_file(golden / "rivals" / "vlpet_decoder.safetensors")
    state, gradients = without_prefix(tensors, "state."), without_prefix(tensors, "grad.")
    layer: Any = T5LayerCrossAttention(config_of(fields))
    layer.load_state_dict(stock(state, layer))
    values = layer.EncDecAttention.v
    adapter = ValueAdapter(values.in_features, fields["bottleneck"], values.out_features)
    prefix = "EncDecAttention.attn_value_parallel_adapter.adapters.vqa."
    names = {
        f"bottleneck.{number}.{part}": f"{prefix}{theirs}.{part}"
        for number, theirs in ((0, "down_sampler"), (2, "up_sampler"))
        for part in ("weight", "bias")
    }
    adapter.load_state_dict({mine: state[theirs] for mine, theirs in names.items()})
    adapt_values(values, adapter)
    x = tensors["in.x"].clone().requires_grad_(True)
    memory = tensors["in.memory"].clone().requires_grad_(True)
    y = layer(x, memory, attention_mask=additive(tensors["in.mask"]))[0]
    assert_near(y, tensors["out.y"], 1e-5)
    y.sum().backward()
    assert_near(x.grad, gradients["x"], 1e-4)
    assert_near(memory.grad, gradients["memory"], 1e-4)
    for name, parameter in adapter.named_parameters():
        assert_near(parameter.grad, gradients[names[name]], 1e-4)


def tiny_adapter(size: Any, mask: EncoderMask) -> GatedAdapter:
    torch.manual_seed(0)
    adapter = GatedAdapter(8, size=size, bottleneck=3, gate_bottleneck=3, scale=0.3, mask=mask)
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    return adapter


@pytest.mark.parametrize("size", SIZES)
def test_no_token_depends_on_padding(size: Any) -> None:
    """The original's small gate does, so an answer depends on the other examples of its batch."""
    mask = EncoderMask()
    adapter = tiny_adapter(size, mask)
    stream_BSD, states_BSD = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    mask_BS = torch.arange(5).expand(2, 5) < torch.tensor([[5], [3]])
    found = []
    for padding in (0.0, 1.0):
        for states in (stream_BSD, states_BSD):
            states[~mask_BS] = padding
        adapter.keep_stream(adapter, (stream_BSD,))
        with mask.set(mask_BS):
            found.append(adapter(states_BSD)[mask_BS])
    assert torch.equal(*found)


def test_a_copy_of_a_layer_has_its_own_adapter_and_mask() -> None:
    mask = EncoderMask()
    layer = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    adapt_sublayer(layer[1], layer[0], tiny_adapter("small", mask))
    copied = deepcopy(layer)
    stream_BSD = torch.randn(2, 5, 8)
    with mask.set(torch.ones(2, 5, dtype=torch.bool)):
        output = layer[1](layer[0](stream_BSD))
    adapter: Any = copied[1].get_submodule("vl_pet")
    adapter.bottleneck[2].weight.data.zero_()
    with adapter.gate._mask.set(torch.ones(2, 5, dtype=torch.bool)):
        assert not torch.equal(copied[1](copied[0](stream_BSD)), output)
    with mask.set(torch.ones(2, 5, dtype=torch.bool)):
        assert torch.equal(layer[1](layer[0](stream_BSD)), output)
