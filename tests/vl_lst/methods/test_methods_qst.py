"""Quantized Side Tuning equals its published code, and starts as its options say.

The fixtures in `tests/golden/rivals` were made by the original classes. B examples, L tokens, D
backbone width, R side width, K layers.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_tensors import assert_near
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, T5Config, T5ForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from vl_lst.backbones.frozen import DecoderTaps, FrozenBackbone
from vl_lst.errors import ModelError
from vl_lst.methods import get_method
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.ladder.model import LadderModel
from vl_lst.models.ladder.rungs import LowRankRungs, StackSizes
from vl_lst.training.optimizer import decayed_names
from vl_lst.training.saved_bytes import saved_bytes_by_part

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "rivals"
GENERATE = HeadConfig(kind="generate")
VISUAL = VisualConfig(channels=8, tokens=9, pooled_grid=2)


def attach(
    backbone: FrozenBackbone,
    *,
    head: HeadConfig = GENERATE,
    visual: VisualConfig | None = VISUAL,
    **options: Any,
) -> LadderModel:
    method = get_method("qst")
    model = method.attach(
        backbone,
        method.options.model_validate({"dropout": 0.0, "rank": 5, **options}),
        visual=visual,
        heads={DEFAULT_TASK: head},
    )
    assert isinstance(model, LadderModel)
    return model.eval()


def test_a_rung_equals_the_original_down_sampler() -> None:
    golden = load_file(GOLDEN / "qst_downsampler.safetensors")
    rungs = LowRankRungs(StackSizes(layers=(0,), depth=1, width=24, side_width=6), rank=4)
    rungs.down.data[0] = golden["state.adapter_A.weight"]
    rungs.up.data[0] = golden["state.adapter_B.weight"]
    norm = rungs.norms[0]
    norm.load_state_dict(
        {kind: golden[f"state.post_layer_norm.{kind}"] for kind in ("weight", "bias")}
    )
    states = golden["in.x"].clone().requires_grad_()
    found = rungs(states[None])[0]
    assert_near(found, golden["out.y"], 1e-5)
    (found * torch.arange(1.0, 7.0)).sum().backward()
    assert_near(states.grad, golden["grad.x"], 1e-4)
    assert rungs.down.grad is not None
    assert rungs.up.grad is not None
    assert_near(rungs.down.grad[0], golden["grad.adapter_A.weight"], 1e-4)
    assert_near(rungs.up.grad[0], golden["grad.adapter_B.weight"], 1e-4)
    for kind in ("weight", "bias"):
        assert_near(norm.get_parameter(kind).grad, golden[f"grad.post_layer_norm.{kind}"], 1e-4)


class _LlamaBlock(nn.Module):
    """Block of the original: that of the backbone's type, which makes its own mask."""

    def __init__(self, config: LlamaConfig, mask_BL: Tensor) -> None:
        super().__init__()
        self.layer = LlamaDecoderLayer(config, 0)
        length = mask_BL.shape[1]
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1) | ~mask_BL[:, None, None]
        self.mask_B1LL = torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo().min)
        positions = torch.arange(length)[None]
        self.positions = LlamaRotaryEmbedding(config)(torch.zeros(1), positions)
        self.read: list[Tensor] = []
        self.written: list[Tensor] = []

    def forward(self, states_BLR: Tensor, *_unused: Any) -> Tensor:
        self.read.append(states_BLR)
        output = self.layer(
            states_BLR, attention_mask=self.mask_B1LL, position_embeddings=self.positions
        )
        output_BLR: Tensor = output[0] if isinstance(output, tuple) else output
        self.written.append(output_BLR)
        return output_BLR


def decoder_only(golden: dict[str, Tensor]) -> tuple[LadderModel, list[_LlamaBlock]]:
    """Return the method's model with the sizes of the fixture and blocks of its kind."""
    t5 = T5Config(
        vocab_size=20, d_model=32, d_kv=8, d_ff=48, num_heads=4, num_layers=3,
        tie_word_embeddings=False,
    )  # fmt: skip
    llama = LlamaConfig(
        hidden_size=8, intermediate_size=12, num_attention_heads=4, rms_norm_eps=1e-6,
        attn_implementation="eager",
    )  # fmt: skip
    backbone = FrozenBackbone(T5ForConditionalGeneration(t5))
    backbone.model.lm_head.weight.data.copy_(golden["state.lm_head.weight"])
    model = attach(backbone, visual=None, reduction=4)
    blocks = [_LlamaBlock(llama, golden["in.mask"].bool()) for _ in range(3)]
    model.side_decoder.blocks = nn.ModuleList(blocks)
    return model.requires_grad_(True), blocks


def official(model: LadderModel) -> dict[str, tuple[nn.Parameter, Any, int]]:
    """Return parameter, row and sign by official name.

    The original's last gate is the share of the backbone, hence the sign.
    """
    side, decoder = model.side, model.side_decoder
    rungs = decoder.rungs
    assert isinstance(rungs, LowRankRungs)
    assert side.last_gate is not None
    assert side.upsample is not None
    found: dict[str, tuple[nn.Parameter, Any, int]] = {
        "lm_head_z": (side.last_gate.alpha, 0, -1),
        "model.norm_qst.weight": (decoder.final_norm.weight, ..., 1),
        "upsample.weight": (side.upsample.weight, ..., 1),
        "upsample.bias": (side.upsample.bias, ..., 1),
    }
    for row in range(3):
        prefix = f"model.downsample.{row}"
        found[f"{prefix}.adapter_A.weight"] = (rungs.down, row, 1)
        found[f"{prefix}.adapter_B.weight"] = (rungs.up, row, 1)
        for kind in ("weight", "bias"):
            norm = rungs.norms[row].get_parameter(kind)
            found[f"{prefix}.post_layer_norm.{kind}"] = (norm, ..., 1)
        found[f"model.z.{row}"] = (decoder.gates.get_parameter("alpha"), row, 1)
        for name, parameter in decoder.blocks[row].get_submodule("layer").named_parameters():
            found[f"model.qst_layers.{row}.{name}"] = (parameter, ..., 1)
    return found


@pytest.mark.parametrize("recompute", [False, True])
def test_logits_and_gradients_equal_those_of_the_original_model(
    monkeypatch: pytest.MonkeyPatch, recompute: bool
) -> None:
    """All but the frozen backbone and the arithmetic within a side block is the method's own."""
    golden = load_file(GOLDEN / "qst_llama.safetensors")
    model, blocks = decoder_only(golden)
    model.side_decoder.recompute = recompute
    parameters = official(model)
    for name, (parameter, row, sign) in parameters.items():
        parameter.data[row] = sign * golden[f"state.{name}"]
    ids_BL = golden["in.ids"]
    blocks_KBLD = torch.stack([golden[f"mid.backbone_block_out.{row}"] for row in range(3)])
    taps = DecoderTaps(
        embedding_PLD=golden["state.model.embed_tokens.weight"][ids_BL],
        blocks_KPLD=blocks_KBLD,
        final_PLD=nn.functional.rms_norm(
            blocks_KBLD[-1], (32,), golden["state.model.norm.weight"], 1e-6
        ),
    )
    monkeypatch.setattr(model.backbone, "decode", lambda *_inputs, **_named: taps)
    encoded = model.encode(Batch(prompt_ids_UT=ids_BL, prompt_index_B=torch.arange(len(ids_BL))))
    logits_BLV = model.logits(model.decode(encoded, ids_BL, None, None))
    assert_near(logits_BLV, golden["out.logits"], 1e-5)
    for row, block in enumerate(blocks):
        assert_near(block.read[0], golden[f"mid.side_block_in.{row}"], 1e-5)
        assert_near(block.written[0], golden[f"mid.side_block_out.{row}"], 1e-5)
    (logits_BLV * golden["in.weight_of_logits"]).sum().backward()
    assert {f"grad.{name}" for name in parameters} == {k for k in golden if k.startswith("grad.")}
    for name, (parameter, row, sign) in parameters.items():
        assert parameter.grad is not None
        assert_near(sign * parameter.grad[row], golden[f"grad.{name}"], 1e-4)


@pytest.mark.parametrize(("last_gate", "share"), [("sigmoid", 0.731), ("unbounded", 1.0)])
def test_it_starts_with_the_shares_of_the_code_or_of_the_paper(
    make_backbone: Callable[..., FrozenBackbone],
    make_batch: Callable[..., Batch],
    last_gate: str,
    share: float,
) -> None:
    model, batch = attach(make_backbone(), reduction=4, last_gate=last_gate), make_batch()
    assert model.side.last_gate is not None
    assert 1 - model.side.last_gate.value(0).mean().item() == pytest.approx(share, abs=1e-3)
    for stack in (model.side.encoder, model.side_decoder):
        gates: Any = stack.gates
        torch.testing.assert_close(gates.value(0), torch.full((8,), 0.5).sigmoid())
    if last_gate == "unbounded":
        ids_BL = model.backbone.shift_right(batch.labels_BL)
        own_BLV = model.backbone.model(
            input_ids=(ids_BT := batch.prompt_ids_UT[batch.prompt_index_B]),
            attention_mask=(ids_BT != 0).long(),
            decoder_input_ids=ids_BL,
        ).logits
        rows = torch.arange(len(batch))
        logits_BLV = model.logits(model.decode(model.encode(batch), ids_BL, rows, rows))
        torch.testing.assert_close(logits_BLV, own_BLV, rtol=1e-5, atol=1e-5)


def test_the_first_rung_projects_the_embeddings_too(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch]
) -> None:
    """A change of the first rung changes what enters the first block, also of image tokens."""
    model = attach(make_backbone(), reduction=4)
    encoder = model.side.encoder
    assert encoder.first_rung is None
    seen: list[Tensor] = []
    encoder.blocks[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    encoder.gates.get_parameter("alpha").data.fill_(float("inf"))  # no rung is mixed in
    rungs: Any = encoder.rungs
    model.encode(make_batch())
    for row in (1, 0):
        rungs.norms[row].bias.data += 1
        model.encode(make_batch())
    before, after_second, after_first = seen
    assert torch.equal(before, after_second)
    torch.testing.assert_close(after_first, before + 1)


def test_norms_and_gates_do_not_decay(make_backbone: Callable[..., FrozenBackbone]) -> None:
    model = attach(make_backbone(), reduction=4)
    decayed = decayed_names(model, model.trainable())
    parts = {name.removeprefix("side.encoder.") for name in decayed if "encoder" in name}
    assert {"rungs.down", "rungs.up"} <= parts
    assert not any("norm" in name or "gate" in name for name in decayed)


def test_states_that_rungs_read_are_reported_as_theirs(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch]
) -> None:
    model = attach(make_backbone(), reduction=4)
    saved = saved_bytes_by_part(model.train(), make_batch(), "examples")
    prompts, tokens = make_batch().prompt_ids_UT.shape
    states = 4 * 4 * prompts * tokens * 32  # float32; embeddings and three layers
    assert saved["side encoder rungs"] >= states
    assert "backbone encoder" not in saved


def test_a_reduction_that_does_not_fit_is_refused(
    make_backbone: Callable[..., FrozenBackbone],
) -> None:
    with pytest.raises(ModelError, match="the reduction 16 does not divide the head width"):
        attach(make_backbone(), reduction=16)
