"""UniPT's stacks equal the paper's code, and the decoder's causal form leaks no later token.

The fixtures hold features, weights, outputs and gradients of the original classes. They have a bias
of the confidence, which a softmax ignores and ours leave out.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_tensors import assert_near, without_prefix
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from vl_lst.backbones.frozen import EncoderTaps, FrozenBackbone
from vl_lst.errors import ModelError
from vl_lst.methods import get_method
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.unipt.model import UniPTModel, UniPTNetwork
from vl_lst.models.unipt.stacks import Form
from vl_lst.training.optimizer import decayed_names

VISUAL = VisualConfig(channels=8, tokens=9, pooled_grid=2)
GENERATE = HeadConfig(kind="generate")
# Names of weights in the paper's code: first and other projections with their norms, those of the
# merged features, the confidence, the projection to the backbone's width.
NAMES: Mapping[Form, Mapping[str, str]] = {
    "joint": {
        "first": "side_first_downsample_l",
        "rest": "side_downsamples_l",
        "projection": "side_projection_l",
        "confidence": "side_gate_layer_l",
        "upsample": "side_final_upsample_l.0",
    },
    "text": {
        "first": "downsample_layers.0",
        "rest": "downsample_layers",
        "projection": "projection_layer",
        "confidence": "gate_layer",
        "upsample": "upsample_layer.1",
    },
}
FIXTURES: Mapping[Form, str] = {"joint": "unipt_encoder", "text": "unipt_text"}
FEATURES, WIDTH = 4, 16


def ours(official: Mapping[str, Tensor], form: Form) -> dict[str, Tensor]:
    """Return weights or gradients of the paper's code by our names."""
    names = NAMES[form]
    first_of_rest = 0 if form == "joint" else 1
    rest = [f"{names['rest']}.{row + first_of_rest}" for row in range(FEATURES - 1)]
    named = {"encoder.confidence": official[f"{names['confidence']}.weight"][0]}
    for kind in ("weight", "bias"):
        named[f"encoder.first_rung.{kind}"] = official[f"{names['first']}.0.{kind}"]
        named[f"encoder.rungs.{kind}"] = torch.stack([official[f"{n}.0.{kind}"] for n in rest])
        for row, name in enumerate([names["first"], *rest]):
            named[f"encoder.norms.{row}.{kind}"] = official[f"{name}.1.{kind}"]
        named[f"upsample.{kind}"] = official[f"{names['upsample']}.{kind}"]
    prefix = f"{names['projection']}."
    for name, value in official.items():
        if name.startswith(prefix):
            named[f"encoder.projection.{name.removeprefix(prefix)}"] = value
    return named


def network(form: Form, *, recompute: bool) -> UniPTNetwork:
    config = BertConfig(
        hidden_size=WIDTH, num_hidden_layers=FEATURES - 1, num_attention_heads=2, vocab_size=30
    )
    backbone = FrozenBackbone(BertModel(config))
    return UniPTNetwork(backbone, reduction=2, form=form, dropout=0.0, recompute=recompute)


def mask_of(fixture: Mapping[str, Tensor]) -> Tensor:
    if "in.mask" in fixture:
        return fixture["in.mask"].bool()
    return torch.arange(fixture["out.y"].shape[1]) < fixture["in.lengths"][:, None]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("form", FIXTURES)
def test_outputs_and_gradients_equal_the_original(
    golden: Path, form: Form, *, recompute: bool
) -> None:
    path = golden / "rivals" / f"{FIXTURES[form]}.safetensors"
    fixture = load_file(path)
    settings = json.loads(path.with_suffix(".json").read_text())
    side = network(form, recompute=recompute)
    assert side.encoder.epsilon == settings["l1_eps"]
    assert all(norm.eps == settings["layer_norm_eps"] for norm in side.encoder.norms)  # type: ignore[union-attr]
    side.load_state_dict(ours(without_prefix(fixture, "state."), form))
    features = [fixture[f"in.feature.{row}"].requires_grad_() for row in range(FEATURES)]
    mask_BS = mask_of(fixture)
    taps = EncoderTaps(features[0], torch.stack(features[1:]), features[-1], mask_BS)
    states_BSR, found_mask_BS = side.encoder(taps, torch.arange(len(mask_BS)), None)
    output_BSD = side.merge(states_BSR, taps.final_UTD)
    output_BSD.sum().backward()
    assert torch.equal(found_mask_BS, mask_BS)
    assert_near(output_BSD, fixture["out.y"], 1e-5, "output")
    expected = ours(without_prefix(fixture, "grad."), form)
    assert expected.keys() == dict(side.named_parameters()).keys()
    for name, parameter in side.named_parameters():
        assert_near(parameter.grad, expected[name], 1e-4, name)
    for row, feature in enumerate(features):
        assert_near(feature.grad, fixture[f"grad.feature.{row}"], 1e-4, f"feature {row}")


def attach(backbone: FrozenBackbone, **options: object) -> UniPTModel:
    method = get_method("unipt")
    model = method.attach(
        backbone,
        method.options.model_validate({"dropout": 0.0, **options}),
        visual=VISUAL,
        heads={"task": GENERATE},
    )
    assert isinstance(model, UniPTModel)
    return model.eval()


@torch.no_grad()
def test_tokens_one_at_a_time_equal_all_at_once(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch]
) -> None:
    model = attach(make_backbone()).double()
    encoded = model.encode(make_batch())
    ids_BL = torch.randint(2, 60, (len(encoded.side_BSR), 6))
    expected_BLV = model.logits(model.decode(encoded, ids_BL, None, None))
    state = model.start_decoding(encoded, capacity=8)
    found = [state.next_logits(ids_BL[:, place]) for place in range(6)]
    torch.testing.assert_close(torch.stack(found, 1), expected_BLV, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_token_depends_on_no_later_one(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch]
) -> None:
    """A mean over all tokens of an answer, as of an encoder's, would show later tokens."""
    model = attach(make_backbone())
    encoded = model.encode(make_batch())
    ids_BL = torch.randint(2, 60, (len(encoded.side_BSR), 5))
    other_BL = ids_BL.clone()
    other_BL[:, 3:] = 60
    states, others = (model.decode(encoded, ids, None, None) for ids in (ids_BL, other_BL))
    torch.testing.assert_close(states[:, :3], others[:, :3])
    assert not torch.allclose(states[:, 3:], others[:, 3:])


def test_no_gradient_passes_through_a_frozen_block_of_an_image_token(
    make_backbone: Callable[..., FrozenBackbone], make_batch: Callable[..., Batch]
) -> None:
    """The backbone reads the text alone; images enter the stack next to its encoder."""
    model, batch = attach(make_backbone()), make_batch()
    read: list[Any] = []
    block = model.backbone.model.encoder.block[0]
    block.register_forward_pre_hook(lambda _block, inputs: read.append(inputs[0]))
    model(batch).backward()
    (states_UTD,) = read
    assert states_UTD.shape[:2] == batch.prompt_ids_UT.shape
    assert not states_UTD.requires_grad
    assert model.visual is not None
    assert model.visual.feature_projection.weight.grad is not None


def test_norms_biases_and_confidences_are_not_decayed(
    make_backbone: Callable[..., FrozenBackbone],
) -> None:
    model = attach(make_backbone())
    trainable = {n: p for n, p in model.trainable().items() if n.startswith("side.")}
    decayed = decayed_names(model, trainable)
    assert any(name.endswith("encoder.rungs.weight") for name in decayed)
    assert trainable.keys() - decayed == {
        name
        for name in trainable
        # The second layer of a crossing and the last of a projection are norms.
        if name.endswith((".bias", ".confidence", "projection.3.weight"))
        or ".norms." in name
        or (".crossings." in name and name.endswith(".1.weight"))
    }


@pytest.mark.parametrize(("reduction", "count"), [(2, 10_960_896), (4, 5_039_232), (8, 2_410_176)])
def test_trainable_parameters_at_t5_base(reduction: int, count: int) -> None:
    """Without the visual embedding, which trains in every method."""
    sizes = {"d_model": 768, "d_ff": 3072, "d_kv": 64, "num_heads": 12, "num_layers": 12}
    with torch.device("meta"):
        backbone = FrozenBackbone(T5ForConditionalGeneration(T5Config(vocab_size=100, **sizes)))
        trainable = attach(backbone, reduction=reduction).trainable()
    side = [p.numel() for name, p in trainable.items() if not name.startswith("visual.")]
    assert sum(side) == count


def test_a_reduction_that_does_not_divide_the_width_is_refused(
    make_backbone: Callable[..., FrozenBackbone],
) -> None:
    with pytest.raises(ModelError, match="reduction 3 does not divide .* which is 32; choose"):
        attach(make_backbone(), reduction=3)
