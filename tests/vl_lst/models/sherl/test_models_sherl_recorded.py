"""SHERL's numbers equal those recorded from the original classes, gradients included."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_tensors import assert_near, without_prefix
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig
from vl_lst.models.sherl.mixing import FeatureMixture
from vl_lst.models.sherl.model import SherlModel

# Of the original's module, by those of the mixture; the first three are a list, one per feature.
LISTED = {"reduce": "fc1", "value": "fc2", "gate": "fc3"}
OTHERS = {
    "score.weight": "guide_block.fc_attn.weight",
    "score.bias": "guide_block.fc_attn.bias",
    "widen.weight": "fc_out.weight",
    "widen.bias": "fc_out.bias",
    "stream_gate": "gate_params",
}


def of_mixture(tensors: Mapping[str, Tensor], prefix: str, features: int) -> dict[str, Tensor]:
    """Return tensors of an original module, such as its gradients, by the mixture's names."""
    found = {name: tensors[prefix + original] for name, original in OTHERS.items()}
    for name, original in LISTED.items():
        for part in ("weight", "bias"):
            listed = [tensors[f"{prefix}hor_block.{k}.{original}.{part}"] for k in range(features)]
            found[f"{name}.{part}"] = torch.stack(listed)
    return found


def assert_equal_gradients(module: nn.Module, expected: Mapping[str, Tensor]) -> None:
    found = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_near(found[name], gradient, 1e-4, name)


@pytest.fixture(scope="module")
def recorded(golden: Path) -> Callable[[str], dict[str, Tensor]]:
    return lambda name: load_file(golden / "rivals" / f"{name}.safetensors")


def test_the_mixture_alone(recorded: Callable[[str], dict[str, Tensor]]) -> None:
    tensors = recorded("sherl_mtsa")
    mixture = FeatureMixture(4, 16, 6, score_bias=0.0)
    mixture.load_state_dict(of_mixture(tensors, "state.", 4))
    features = [tensors[f"in.feature.{k}"].requires_grad_() for k in range(4)]
    stream = tensors["in.last"].requires_grad_()
    mixed = mixture(features[0], torch.stack(features[1:]), stream)
    torch.testing.assert_close(mixed, tensors["out.y"], rtol=1e-5, atol=1e-5)
    mixed.sum().backward()
    assert_equal_gradients(mixture, of_mixture(tensors, "grad.", 4))
    for name, leaf in [("last", stream), *((f"feature.{k}", f) for k, f in enumerate(features))]:
        assert_near(leaf.grad, tensors[f"grad.{name}"], 1e-4, name)


@pytest.fixture(scope="module")
def whole(
    golden: Path, recorded: Callable[[str], dict[str, Tensor]]
) -> tuple[SherlModel, Batch, dict[str, Tensor]]:
    """Return a model with the recorded weights on a stock T5, a batch, and what was recorded."""
    tensors = recorded("sherl_t5")
    fields: dict[str, Any] = json.loads((golden / "rivals" / "sherl_t5.json").read_text())["config"]
    known = {key: value for key, value in fields.items() if key in T5Config().to_dict()}
    t5 = T5ForConditionalGeneration(T5Config(**known))
    missing, _ = t5.load_state_dict(without_prefix(tensors, "state."), strict=False)
    assert set(missing) <= {
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "lm_head.weight",
    }
    t5.tie_weights()
    model = SherlModel(
        FrozenBackbone(t5),
        visual=None,
        head=HeadConfig(kind="generate"),
        reduction=4,
        encoder_layers=fields["encoder_side_layers"],
        decoder_layers=fields["decoder_side_layers"],
        score_bias=0.0,
        dropout=0.0,
        recompute=False,
    )
    for name, stack, features in (("encoder", model.encoder, 4), ("decoder", model.decoder, 3)):
        assert stack is not None
        prefix = f"state.{name}."
        stack.mixture.load_state_dict(of_mixture(tensors, f"{prefix}side_mtsa_block.", features))
        stack.final_norm.weight.data = tensors[f"{prefix}final_side_layer_norm.weight"]
    ids_UT = tensors["in.ids"].long()
    assert torch.equal(ids_UT != 0, tensors["in.mask"].bool())
    rows = torch.arange(len(ids_UT))
    batch = Batch(prompt_ids_UT=ids_UT, prompt_index_B=rows, labels_BL=tensors["in.labels"].long())
    return model.eval(), batch, tensors


def test_logits_loss_and_gradients_of_a_whole_model(
    whole: tuple[SherlModel, Batch, dict[str, Tensor]],
) -> None:
    model, batch, tensors = whole
    assert batch.labels_BL is not None
    states_BLR = model.decode(model.encode(batch), model.backbone.shift_right(batch.labels_BL))
    torch.testing.assert_close(
        model.logits(states_BLR), tensors["out.logits"], rtol=1e-5, atol=1e-5
    )
    model.zero_grad()
    loss = model.token_losses(batch).sum()
    torch.testing.assert_close(loss, tensors["out.loss_sum"], rtol=1e-5, atol=1e-5)
    loss.backward()
    for name, stack, features in (("encoder", model.encoder, 4), ("decoder", model.decoder, 3)):
        assert stack is not None
        prefix = f"grad.{name}."
        expected = of_mixture(tensors, f"{prefix}side_mtsa_block.", features)
        assert_equal_gradients(stack.mixture, expected)
        gradient = tensors[f"{prefix}final_side_layer_norm.weight"]
        assert_near(stack.final_norm.weight.grad, gradient, 1e-4)
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
