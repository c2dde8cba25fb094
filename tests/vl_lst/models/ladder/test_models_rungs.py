"""Every option of the ladder against a plain implementation, layer by layer, example by example."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vl_lst.generation.search import greedy_search
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig, LadderConfig, VisualConfig
from vl_lst.models.ladder.model import LadderModel
from vl_lst.models.ladder.rungs import Gates, LearnedGates, PooledRungs, Rungs, StackSizes
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


def vary_gates(model: LadderModel) -> LadderModel:
    """Give the gates of a model different values."""
    for number, stack in enumerate((model.side.encoder, model.side.decoder)):
        alpha = stack.gates.alpha
        values = torch.linspace(-0.1 - number * 0.05, 0.2, alpha.numel())
        alpha.data.copy_(values.view_as(alpha))
    return model


def scaled(states_TD: Tensor, options: dict[str, Any]) -> Tensor:
    if options.get("rungs", "normalised") != "normalised":
        return states_TD
    return states_TD / (states_TD.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def project(states_TD: Tensor, rungs: Any, row: int) -> Tensor:
    if isinstance(rungs, PooledRungs):
        return torch.stack([part.mean(-1) for part in states_TD.split(rungs.group, -1)], -1)
    return states_TD @ rungs.weight[row].T + rungs.bias[row]


def run_stack(
    side: Any, options: dict[str, Any], own_QR: Tensor, taps: Any, image_VD: Tensor, *rest: Any
) -> Tensor:
    """Run one example through one stack, mixing one token at a time."""
    states = own_QR
    text = len(own_QR) - len(image_VD)
    for row, layer in enumerate(side.layers):
        gate = torch.sigmoid(side.gates.alpha[layer] / 0.1)
        rung = project(scaled(taps[row], options), side.rungs, row)
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
                image_1D = scaled(image_VD[place - text][None], options)
                image_rung = project(image_1D, side.rungs, row)[0]
                token = gate * token + (1 - gate) * image_rung
            mixed.append(token)
        states = torch.stack(mixed)
        if not after:
            states = side.blocks[row](states[None], *rest)[0]
    return side.final_norm(states)


def last_states(model: LadderModel, batch: Batch, options: dict[str, Any]) -> list[Tensor]:
    """Return the decoder states [L, R] of each example, computed one by one."""
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
        own = encoder.first_rung(torch.cat((scaled(read.embedding_UTD[0], options), image_VD)))
        bias = torch.zeros(1, encoder.position_bias.table.shape[1], tokens + image, tokens + image)
        bias[:, :, :tokens, :tokens] = encoder.position_bias(tokens, tokens)
        seen = torch.cat((read.mask_UT[0], torch.ones(image, dtype=torch.bool)))
        bias = bias + torch.where(seen, 0.0, -1e4)
        memory = run_stack(encoder, options, own, read.blocks_KUTD[:, 0], image_VD, bias)
        written = backbone.decode(
            inputs_BL[row][None],
            decoder.layers,
            encoder_states_PTD=read.final_UTD,
            encoder_mask_PT=read.mask_UT,
        )
        length = inputs_BL.shape[1]
        later = torch.ones(length, length).triu(1) * -1e4
        found.append(
            run_stack(
                decoder,
                options,
                decoder.first_rung(scaled(written.embedding_PLD[0], options)),
                written.blocks_KPLD[:, 0],
                image_VD[:0],
                decoder.position_bias(length, length) + later,
                memory[None],
                seen[None, None, None],
            )
        )
    return found


@every_option
def test_states_equal_a_plain_implementation(make_model, make_batch, options) -> None:
    model, batch = vary_gates(make_model(**options)), make_batch()
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
def test_exactly_trainable_parameters_get_gradients(make_model, make_batch, options, head) -> None:
    model, batch = vary_gates(make_model(head, **options)), make_batch()
    for parameter in model.trainable().values():
        parameter.requires_grad_(True)
    model(batch).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == model.trainable().keys()
    if head == "generate":
        # The boxes are zeros, so nothing depends on the weight that multiplies them.
        still = {name for name, p in model.trainable().items() if not p.grad.any()}
        assert still <= {"visual.box_projection.weight"}
    for stack in (model.side.encoder, model.side.decoder):
        moved = stack.gates.alpha.grad.any(-1).nonzero()[:, 0].tolist()
        assert moved == list(stack.layers), "gates of dropped layers are unused"


@every_option
def test_recomputing_changes_no_gradient(make_model, make_batch, options) -> None:
    found = []
    for recompute in (True, False):
        model = vary_gates(make_model(recompute=recompute, **options))
        for parameter in model.trainable().values():
            parameter.requires_grad_(True)
        model(make_batch()).backward()
        found.append({name: p.grad for name, p in model.trainable().items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], msg=name)


@every_option
def test_cached_greedy_search_equals_uncached(make_model, make_batch, options) -> None:
    model, batch = vary_gates(make_model(seed=2, **options)), make_batch()
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


def test_image_tokens_pass_or_are_attenuated() -> None:
    states, rung = torch.randn(2, 5, 3), torch.randn(2, 2, 3)
    passed, attenuated = (
        LearnedGates(1, 1, temperature=0.1, start=0.25, attenuate=attenuate)(0, rung, states)
        for attenuate in (False, True)
    )
    assert torch.equal(passed[:, 2:], states[:, 2:])
    torch.testing.assert_close(attenuated[:, 2:], 0.25 * states[:, 2:])
    assert torch.equal(passed[:, :2], attenuated[:, :2])


def test_image_rungs_cost_memory_only_if_used(make_model, make_batch) -> None:
    """`pass` saves no more bytes than `attenuate`; `pool` saves no backbone state."""

    def saved(**options: Any) -> int:
        model = make_model(**options)
        for parameter in model.trainable().values():
            parameter.requires_grad_(True)
        return bytes_saved_for_backward(model, lambda: model(make_batch()))["total"]

    for recompute in (True, False):
        attenuating = saved(image_rungs="attenuate", recompute=recompute)
        assert saved(image_rungs="pass", recompute=recompute) <= attenuating
        assert saved(rungs="pool", recompute=recompute) < 0.95 * attenuating
        assert saved(image_rungs="projection", recompute=recompute) < 1.2 * attenuating


def test_channel_gates_have_one_number_per_channel(make_model) -> None:
    scalar, channel = make_model(), make_model(gates="channel")
    assert scalar.side.encoder.gates.alpha.shape == (3, 1)
    assert channel.side.encoder.gates.alpha.shape == (3, 8)


def test_gates_start_at_gate_start(make_model) -> None:
    for start in (0.1, 0.5, 0.9):
        gates = make_model(gate_start=start, gates="channel").side.encoder.gates
        for layer in range(3):
            torch.testing.assert_close(gates.value(layer), torch.full((8,), start))


@pytest.mark.parametrize("merge_last", [False, True])
def test_gates_start_further_open_where_image_tokens_have_no_rung(
    make_backbone, merge_last
) -> None:
    visual = VisualConfig(channels=8, tokens=9, pooled_grid=2)
    for settings, start in ((visual, 0.9), (None, 0.5)):
        side = LadderModel(
            make_backbone(),
            visual=settings,
            ladder=LadderConfig(merge_last=merge_last),
            head=HeadConfig(kind="generate"),
        ).side
        gates = [side.encoder.gates, side.decoder.gates, *([side.last_gate] if merge_last else [])]
        for gate in gates:
            torch.testing.assert_close(gate.value(0), torch.tensor([start]))


def test_normalised_rungs_do_not_grow_with_the_backbone(make_model, make_batch) -> None:
    """T5's residual stream grows from layer to layer and with the scale of its weights."""

    def rungs_of(scale: float, **options: Any) -> Tensor:
        encoder = make_model(**options).side.encoder
        taps = make_model().backbone.encode(make_batch().prompt_ids_UT, encoder.layers)
        rungs: Tensor = encoder.rungs(encoder.scale(scale * taps.blocks_KUTD))
        return rungs

    torch.testing.assert_close(rungs_of(100.0), rungs_of(1.0))
    small, large = (rungs_of(scale, rungs="linear") for scale in (1.0, 100.0))
    assert large.abs().mean() > 10 * small.abs().mean()


def test_pooled_rungs_train_nothing(make_model) -> None:
    names = make_model(rungs="pool").trainable()
    assert "side.encoder.first_rung.weight" in names
    assert not any(name.startswith(("side.encoder.rungs", "side.decoder.rungs")) for name in names)


class _Unprojected(Rungs):
    """Backbone states at their own width."""

    def forward(self, taps_KNTD: Tensor) -> Tensor:
        return taps_KNTD


class _CrossGates(Gates):
    """Bilinear gates on the side state and the backbone state, which record their calls."""

    def __init__(self, sizes: StackSizes) -> None:
        super().__init__()
        self.down = nn.Linear(sizes.width, sizes.side_width)
        self.calls: list[tuple[int, int, int]] = []

    def forward(self, layer: int, rung_BTX: Tensor, states_BQR: Tensor) -> Tensor:
        self.calls.append((layer, rung_BTX.shape[-1], states_BQR.shape[-1]))
        narrow_BTR = self.down(rung_BTX)
        text_BTR, image_BVR = states_BQR.tensor_split([narrow_BTR.shape[1]], dim=1)
        gate_BT1 = torch.sigmoid((text_BTR * narrow_BTR).sum(-1, keepdim=True))
        return torch.cat((text_BTR.lerp(narrow_BTR, gate_BT1), image_BVR), 1)


@pytest.mark.parametrize("rung_place", ["before_block", "after_block"])
def test_custom_gates_see_the_backbone_state_and_the_side_state(
    make_backbone, make_batch, rung_place
) -> None:
    batch, gradients = make_batch(), []
    for recompute in (True, False):
        torch.manual_seed(0)
        model = LadderModel(
            make_backbone(),
            visual=VisualConfig(channels=8, tokens=9, pooled_grid=2),
            ladder=LadderConfig(
                dropout=0.0, recompute=recompute, rung_place=rung_place, encoder_layers=(0, 2)
            ),
            head=HeadConfig(kind="generate"),
            build_rungs=lambda sizes: (_Unprojected(), _CrossGates(sizes)),
        ).train()
        loss = model(batch)
        encoder, decoder = model.side.encoder.gates, model.side.decoder.gates
        assert encoder.calls == [(0, 32, 8), (2, 32, 8)]
        assert decoder.calls == [(0, 32, 8), (1, 32, 8)]
        loss.backward()
        trainable = model.trainable()
        assert "side.decoder.gates.down.weight" in trainable
        gradients.append([parameter.grad for parameter in trainable.values()])
        torch.testing.assert_close(model(batch.unshare()), loss)
    for recomputed, saved in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, saved)
