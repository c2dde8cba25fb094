"""Coherent initialisation makes a smaller version of the backbone; at full width, a copy."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.generation.search import greedy_search
from vl_lst.models.batch import Batch
from vl_lst.models.initialisation.pruning import fisher_importance, magnitude_importance
from vl_lst.models.initialisation.shrinking import (
    Basis,
    initialise_coherently,
    principal_bases,
    selected_bases,
    shrink_backbone,
)
from vl_lst.models.ladder.model import LadderModel

KINDS = ("magnitude", "fisher", "principal")


def texts(count: int = 24) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(9)
    draw = [torch.randint(2, 64, (1, 6), generator=generator) for _ in range(2 * count)]
    return list(zip(draw[::2], draw[1::2], strict=True))


def bases_of(
    backbone: FrozenBackbone, kind: str, reduction: int
) -> tuple[dict[str, Basis], Mapping[str, Tensor] | None]:
    if kind == "principal":
        return principal_bases(backbone, texts(), reduction), None
    state = backbone.model.state_dict()
    fisher = fisher_importance(backbone, texts(3)) if kind == "fisher" else None
    importance = magnitude_importance(state) if fisher is None else fisher
    return selected_bases(state, importance, backbone.config, reduction), fisher


def initialised(make_model, kind: str, reduction: int, **options: object) -> LadderModel:
    """Return a model initialised from a backbone whose norms are not all one."""
    model = make_model(reduction=reduction, rungs="linear", **options)
    generator = torch.Generator().manual_seed(4)
    for name, parameter in model.backbone.named_parameters():
        if "layer_norm" in name:
            parameter.data.uniform_(0.5, 1.5, generator=generator)
        elif "shared" not in name:
            parameter.data.mul_(1.5)
    initialise_coherently(model, *bases_of(model.backbone, kind, reduction))
    return model


def without_images(batch: Batch) -> Batch:
    """Return the batch without images, as the backbone sees it."""
    return Batch(
        features_BINF=batch.features_BINF[:, :0],
        prompt_ids_UT=batch.prompt_ids_UT,
        prompt_index_B=batch.prompt_index_B,
        labels_BL=batch.labels_BL,
        pair_rows_P=batch.pair_rows_P,
        pair_index_B=batch.pair_index_B,
        weights_B=batch.weights_B,
    )


def backbone_logits(model: LadderModel, batch: Batch) -> Tensor:
    assert batch.labels_BL is not None
    prompts = batch.prompt_ids_UT[batch.prompt_index_B]
    return model.backbone.model(
        input_ids=prompts,
        attention_mask=(prompts != 0).long(),
        decoder_input_ids=model.backbone.shift_right(batch.labels_BL),
    ).logits


def side_logits(model: LadderModel, batch: Batch) -> Tensor:
    assert batch.labels_BL is not None
    rows = torch.arange(len(batch))
    inputs = model.backbone.shift_right(batch.labels_BL)
    return model.logits(model.decode(model.encode(batch), inputs, rows, rows))


@pytest.mark.parametrize("gated", [False, True], ids=["v1.0", "v1.1"])
@pytest.mark.parametrize("kind", KINDS)
def test_at_full_width_it_equals_the_backbone(make_model, make_batch, kind, gated) -> None:
    """After the blocks, rungs change nothing at any gate; before them, only with closed gates."""
    batch = without_images(make_batch())
    after = initialised(make_model, kind, 1, gated=gated, rung_place="after_block")
    before = initialised(make_model, kind, 1, gated=gated)
    for stack in (before.side.encoder, before.side.decoder):
        stack.gates.alpha.data.fill_(5.0)
    for model in (after, before):
        torch.testing.assert_close(
            side_logits(model, batch), backbone_logits(model, batch), rtol=1e-3, atol=1e-4
        )


def test_at_full_width_it_generates_what_the_backbone_generates(make_model, make_batch) -> None:
    batch = without_images(make_batch())
    model = initialised(make_model, "magnitude", 1, rung_place="after_block")
    prompts = batch.prompt_ids_UT[batch.prompt_index_B]
    stock = model.backbone.model.generate(
        prompts, attention_mask=(prompts != 0).long(), max_length=8, do_sample=False, num_beams=1
    )
    ours = greedy_search(model, batch, max_length=8)
    width = max(stock.shape[1], ours.shape[1])
    padded = [torch.nn.functional.pad(ids, (0, width - ids.shape[1])) for ids in (stock, ours)]
    assert torch.equal(*padded)


@pytest.mark.parametrize("kind", ["magnitude", "fisher"])
def test_every_rung_selects_the_same_channels(make_model, make_batch, kind) -> None:
    model, batch = initialised(make_model, kind, 2), make_batch()
    bases, _ = bases_of(model.backbone, kind, 2)
    taps = model.backbone.encode(batch.prompt_ids_UT, model.side.encoder.layers)
    kept = bases["encoder"].projection_RD.argmax(1)
    assert kept.tolist() == sorted(set(kept.tolist()))
    rungs_KUTR = model.side.encoder.rungs(taps.blocks_KUTD)
    torch.testing.assert_close(rungs_KUTR, taps.blocks_KUTD[..., kept])
    torch.testing.assert_close(
        model.side.encoder.first_rung(taps.embedding_UTD), taps.embedding_UTD[..., kept]
    )
    upsampled = model.side.upsample.weight.abs().sum(1).nonzero()[:, 0]
    assert torch.equal(upsampled, bases["decoder"].projection_RD.argmax(1))


@pytest.mark.parametrize("kind", KINDS)
def test_all_weights_of_a_stack_share_one_basis(make_model, kind) -> None:
    """Each weight is the backbone's in the basis, with rows selected within each head."""
    model = initialised(make_model, kind, 2)
    bases, importance = bases_of(model.backbone, kind, 2)
    state, config = model.backbone.model.state_dict(), model.backbone.config
    pruned = shrink_backbone(state, bases, config, 2, importance)
    for stack, place, kind_of in (
        ("encoder", 0, "SelfAttention"),
        ("decoder", 1, "EncDecAttention"),
    ):
        block, memory = f"{stack}.block.1.layer.{place}", "encoder"
        name = f"{block}.{kind_of}"
        own = state[f"{block}.layer_norm.weight"]
        across = own if memory == stack else state["encoder.final_layer_norm.weight"]
        kept = {}
        for part, side, norm in (("q", stack, own), ("k", memory, across), ("v", memory, across)):
            whole = (state[f"{name}.{part}.weight"] * norm) @ bases[side].projection_RD.T
            shrunk = pruned.weights[f"{name}.{part}.weight"]
            kept[part] = torch.cdist(shrunk, whole).argmin(1)
            torch.testing.assert_close(shrunk, whole[kept[part]], rtol=1e-4, atol=1e-5)
        assert torch.equal(kept["q"], kept["k"])
        whole = bases[stack].projection_RD @ state[f"{name}.o.weight"]
        torch.testing.assert_close(pruned.weights[f"{name}.o.weight"], whole[:, kept["v"]])
        heads, width = config.num_heads, config.d_kv
        for rows in kept.values():
            assert torch.equal(rows // width, torch.arange(heads).repeat_interleave(width // 2))


def test_principal_directions_are_orthonormal_and_hold_the_most_variance(make_model) -> None:
    model = initialised(make_model, "principal", 4)
    for basis in principal_bases(model.backbone, texts(), 4).values():
        projection = basis.projection_RD
        torch.testing.assert_close(projection @ projection.T, torch.eye(8), rtol=1e-4, atol=1e-5)
    states = torch.cat([model.backbone.encode(ids, [0, 1, 2]).blocks_KUTD for ids, _ in texts()], 1)
    normed = torch.nn.functional.rms_norm(states, (32,)).flatten(0, -2)

    def energy(kind: str) -> float:
        projection = bases_of(model.backbone, kind, 4)[0]["encoder"].projection_RD
        return float((normed @ projection.T).square().mean() * 8 / 32)

    assert energy("principal") > 1.2 * energy("magnitude")


def test_fisher_and_principal_do_not_change_the_backbone(make_backbone) -> None:
    backbone = make_backbone()
    backbone.enable_dropout(0.5)
    backbone.train()
    before = {name: p.clone() for name, p in backbone.model.state_dict().items()}
    first, second = (fisher_importance(backbone, texts(2)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first), "dropout is off"
    principal_bases(backbone, texts(2), 2)
    assert backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    after = backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", KINDS)
def test_dropped_layers_and_classifiers_are_supported(make_model, make_batch, kind) -> None:
    model = make_model(
        "classify", reduction=2, rungs="linear", encoder_layers=(1,), decoder_layers=(0,)
    )
    untouched = {"visual", "classifiers", "gates"}
    random = {name: p.clone() for name, p in model.named_parameters()}
    written = initialise_coherently(model, *bases_of(model.backbone, kind, 2))
    for name, parameter in model.named_parameters():
        if not name.startswith("backbone."):
            assert (name in written) != any(part in name.split(".") for part in untouched), name
            assert (name in written) or torch.equal(parameter, random[name]), name
    assert torch.isfinite(model(make_batch()))


def test_fisher_information_accumulates_in_float32(make_backbone) -> None:
    """A bfloat16 sum stops growing at 256 times what is added."""
    backbone = make_backbone()
    backbone.model.to(torch.bfloat16)
    (pair,) = texts(1)
    once = fisher_importance(backbone, [pair])
    often = fisher_importance(backbone, [pair] * 1024)
    for name, added in once.items():
        assert added.dtype == torch.float32
        torch.testing.assert_close(often[name], added * 1024, rtol=1e-4, atol=0, msg=name)


def test_magnitudes_are_float32() -> None:
    state = {"weight": torch.ones(2, 3, dtype=torch.bfloat16)}
    assert magnitude_importance(state)["weight"].dtype == torch.float32
