"""Every option of the ladder against a plain restatement, layer by layer and example by example."""

from typing import Any

import pytest
import torch
from torch import Tensor

from vl_lst.generation.search import greedy_search
from vl_lst.models.batch import Batch
from vl_lst.models.ladder.model import LadderModel
from vl_lst.models.ladder.rungs import PooledRungs, mix
from vl_lst.training.saved_bytes import bytes_saved_for_backward

DROPPED = {"encoder_layers": (0, 2), "decoder_layers": (1,)}
REFERENCE = {"image_rungs": "attenuate", "rung_place": "before_block", "rungs": "linear"}
OPTIONS: list[dict[str, Any]] = [
    REFERENCE,
    {"image_rungs": "pass"},
    {"image_rungs": "projection"},
    {"rung_place": "after_block"},
    {"rungs": "linear"},
    {"rungs": "pool"},
    {"rungs": "linear", "image_rungs": "projection"},
    {"gates": "channel"},
    {"rungs": "pool", "image_rungs": "projection", **DROPPED},
    {"rung_place": "after_block", "image_rungs": "attenuate", "gates": "channel", **DROPPED},
    {"rung_place": "after_block", "image_rungs": "projection", "rungs": "pool", "gates": "channel"},
]
every_option = pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda options: "-".join(str(value) for value in options.values())
)


def opened(model: LadderModel) -> LadderModel:
    """The same model with gates that differ from each other."""
    for number, stack in enumerate((model.side.encoder, model.side.decoder)):
        alpha = stack.gates.alpha
        values = torch.linspace(-0.1 - number * 0.05, 0.2, alpha.numel())
        alpha.data.copy_(values.view_as(alpha))
    return model


def as_read(states_TD: Tensor, options: dict[str, Any]) -> Tensor:
    if options.get("rungs", "normalised") != "normalised":
        return states_TD
    return states_TD / (states_TD.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def project(states_TD: Tensor, rungs: Any, row: int) -> Tensor:
    if isinstance(rungs, PooledRungs):
        return torch.stack([part.mean(-1) for part in states_TD.split(rungs.group, -1)], -1)
    return states_TD @ rungs.weight[row].T + rungs.bias[row]


def climb_plainly(
    side: Any, options: dict[str, Any], own_QR: Tensor, taps: Any, image_VD: Tensor, *rest: Any
) -> Tensor:
    """One example up one stack, a token's gate and rung at a time."""
    states = own_QR
    text = len(own_QR) - len(image_VD)
    for row, layer in enumerate(side.layers):
        gate = torch.sigmoid(side.gates.alpha[layer] / 0.1)
        rung = project(as_read(taps[row], options), side.rungs, row)
        after = options.get("rung_place") == "after_block"
        if after:
            states = side.blocks[row](states[None], *rest)[0]
        mixed = [gate * states[t] + (1 - gate) * rung[t] for t in range(text)]
        for place in range(text, len(states)):
            token = states[place]
            kind = options.get("image_rungs", "pass")
            if kind == "attenuate":
                token = gate * token
            elif kind == "projection":
                image_1D = as_read(image_VD[place - text][None], options)
                image_rung = project(image_1D, side.rungs, row)[0]
                token = gate * token + (1 - gate) * image_rung
            mixed.append(token)
        states = torch.stack(mixed)
        if not after:
            states = side.blocks[row](states[None], *rest)[0]
    return side.final_norm(states)


def last_states(model: LadderModel, batch: Batch, options: dict[str, Any]) -> list[Tensor]:
    """Decoder states [L, R] of each example, computed alone and plainly."""
    backbone, encoder, decoder = model.backbone, model.side.encoder, model.side.decoder
    images_BVD = model.visual(batch.features_BINF)
    assert batch.labels_BL is not None
    inputs_BL = backbone.shift_right(batch.labels_BL)
    found = []
    for row in range(len(batch)):
        ids_1T = batch.prompt_ids_UT[batch.prompt_index_B[row]][None]
        read = backbone.encode(ids_1T, encoder.layers)
        image_VD = images_BVD[row]
        tokens, image = ids_1T.shape[1], len(image_VD)
        own = encoder.first_rung(torch.cat((as_read(read.embedding_UTD[0], options), image_VD)))
        bias = torch.zeros(1, encoder.position_bias.table.shape[1], tokens + image, tokens + image)
        bias[:, :, :tokens, :tokens] = encoder.position_bias(tokens, tokens)
        seen = torch.cat((read.mask_UT[0], torch.ones(image, dtype=torch.bool)))
        bias = bias + torch.where(seen, 0.0, -1e4)
        memory = climb_plainly(encoder, options, own, read.blocks_KUTD[:, 0], image_VD, bias)
        written = backbone.decode(
            inputs_BL[row][None],
            decoder.layers,
            encoder_states_PTD=read.final_UTD,
            encoder_mask_PT=read.mask_UT,
        )
        length = inputs_BL.shape[1]
        later = torch.ones(length, length).triu(1) * -1e4
        found.append(
            climb_plainly(
                decoder,
                options,
                decoder.first_rung(as_read(written.embedding_PLD[0], options)),
                written.blocks_KPLD[:, 0],
                image_VD[:0],
                decoder.position_bias(length, length) + later,
                memory[None],
                seen[None, None, None],
            )
        )
    return found


@every_option
def test_it_equals_a_plain_restatement(make_model, make_batch, options) -> None:
    model, batch = opened(make_model(**options)), make_batch()
    assert batch.labels_BL is not None
    states = model.decode(
        model.encode(batch),
        model.backbone.shift_right(batch.labels_BL),
        batch.pair_rows_P,
        batch.pair_index_B,
    )
    for found, expected in zip(states, last_states(model, batch, options), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@every_option
@pytest.mark.parametrize("head", ["generate", "classify"])
def test_exactly_what_trains_gets_a_gradient(make_model, make_batch, options, head) -> None:
    model, batch = opened(make_model(head, **options)), make_batch()
    for parameter in model.trainable().values():
        parameter.requires_grad_(True)
    model(batch).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == model.trainable().keys()
    if head == "generate":
        # The boxes are zeros, so nothing depends on the weight they are multiplied by.
        still = {name for name, p in model.trainable().items() if not p.grad.any()}
        assert still <= {"visual.box_projection.weight"}
    for stack in (model.side.encoder, model.side.decoder):
        moved = stack.gates.alpha.grad.any(-1).nonzero()[:, 0].tolist()
        assert moved == list(stack.layers), "gates of dropped layers are idle"


@every_option
def test_recomputing_changes_no_gradient(make_model, make_batch, options) -> None:
    found = []
    for recompute in (True, False):
        model = opened(make_model(recompute=recompute, **options))
        for parameter in model.trainable().values():
            parameter.requires_grad_(True)
        model(make_batch()).backward()
        found.append({name: p.grad for name, p in model.trainable().items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], msg=name)


@every_option
def test_cached_greedy_search_equals_uncached(make_model, make_batch, options) -> None:
    model, batch = opened(make_model(seed=2, **options)), make_batch()
    cached = greedy_search(model, batch, max_length=7)
    rows = torch.arange(len(batch))
    ids = torch.full((len(batch), 1), model.backbone.start_token_id)
    ended = torch.zeros(len(batch), dtype=torch.bool)
    while ids.shape[1] < cached.shape[1]:
        states = model.decode(model.encode(batch), ids, rows, rows)
        best = model.logits(states)[:, -1].argmax(-1).masked_fill(ended, 0)
        ended |= best == model.backbone.eos_token_id
        ids = torch.cat((ids, best[:, None]), 1)
    assert torch.equal(ids, cached)


def test_image_tokens_pass_or_fade() -> None:
    states, rung = torch.randn(2, 5, 3), torch.randn(2, 2, 3)
    gate = torch.tensor([0.25])
    passed, faded = (mix(states, rung, gate, attenuate=fade) for fade in (False, True))
    assert torch.equal(passed[:, 2:], states[:, 2:])
    assert torch.equal(faded[:, 2:], 0.25 * states[:, 2:])
    assert torch.equal(passed[:, :2], faded[:, :2])


def test_no_image_rung_is_paid_for_where_there_is_none(make_model, make_batch) -> None:
    """What passes costs no more bytes than what fades; pooling keeps no state of the backbone."""

    def saved(**options: Any) -> int:
        model = make_model(**options)
        for parameter in model.trainable().values():
            parameter.requires_grad_(True)
        return bytes_saved_for_backward(model, lambda: model(make_batch()))["total"]

    for recompute in (True, False):
        fading = saved(image_rungs="attenuate", recompute=recompute)
        assert saved(image_rungs="pass", recompute=recompute) <= fading
        assert saved(rungs="pool", recompute=recompute) < 0.95 * fading
        assert saved(image_rungs="projection", recompute=recompute) < 1.2 * fading


def test_a_gate_per_channel_trains_more_numbers(make_model) -> None:
    scalar, channel = make_model(), make_model(gates="channel")
    assert scalar.side.encoder.gates.alpha.shape == (3, 1)
    assert channel.side.encoder.gates.alpha.shape == (3, 8)


def test_gates_begin_where_they_are_told_to(make_model) -> None:
    for start in (0.1, 0.5, 0.9):
        gates = make_model(gate_start=start, gates="channel").side.encoder.gates
        for layer in range(3):
            torch.testing.assert_close(gates(layer), torch.full((8,), start))


def test_normalised_rungs_do_not_grow_with_the_backbone(make_model, make_batch) -> None:
    """T5's residual stream grows from layer to layer, and with the scale of its weights."""

    def rungs_of(scale: float, **options: Any) -> Tensor:
        encoder = make_model(**options).side.encoder
        taps = make_model().backbone.encode(make_batch().prompt_ids_UT, encoder.layers)
        rungs: Tensor = encoder.rungs(encoder.as_read(scale * taps.blocks_KUTD))
        return rungs

    torch.testing.assert_close(rungs_of(100.0), rungs_of(1.0))
    small, large = (rungs_of(scale, rungs="linear") for scale in (1.0, 100.0))
    assert large.abs().mean() > 10 * small.abs().mean()


def test_pooled_rungs_train_nothing(make_model) -> None:
    names = make_model(rungs="pool").trainable()
    assert "side.encoder.first_rung.weight" in names
    assert not any(name.startswith(("side.encoder.rungs", "side.decoder.rungs")) for name in names)
