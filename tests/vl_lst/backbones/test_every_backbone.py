"""Properties of the backbones of every family; see `tiny_backbones` for how to add one."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tiny_backbones import tiny_backbones
from tiny_batches import prompt_ids, tiny_batch, visual_for
from torch import Tensor, nn
from transformers import GenerationConfig

from vl_lst.backbones.backbone import Backbone
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.quantization import bytes_freed_by_quantization, model_bytes
from vl_lst.generation.search import beam_search, greedy_search
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig
from vl_lst.models.joint import JointBackbone, JointModel

TINY = tiny_backbones()
WITH_DECODER = [name for name, tiny in TINY.items() if tiny.has_decoder]
MAX_LENGTH = 7

MakeTiny = Callable[..., FrozenBackbone]


@pytest.mark.parametrize("name", TINY)
def test_a_saved_model_loads_unchanged(saved_backbones: Any, name: str) -> None:
    stock, loaded = saved_backbones.stock(name), saved_backbones.load(name)
    model = loaded.backbone.model
    assert isinstance(model, type(stock))
    saved = dict(stock.named_parameters())
    for key, parameter in model.named_parameters():
        assert torch.equal(parameter, saved.pop(key)), key
    assert not saved
    ids_UT = prompt_ids(loaded.backbone)
    expected = run_stock(stock, loaded.backbone, ids_UT)
    assert torch.equal(run_stock(model, loaded.backbone, ids_UT), expected)


def run_stock(model: Any, backbone: Backbone, ids_UT: Tensor) -> Tensor:
    """Return the logits of a stock model, or without a decoder its encoder's states."""
    mask_UT = (ids_UT != backbone.pad_token_id).long()
    with torch.no_grad():
        if not backbone.has_decoder:
            states: Tensor = backbone.family.encoder(model)(ids_UT, mask_UT).last_hidden_state
            return states[mask_UT.bool()]
        answers_UL = ids_UT[:, :4].flip(0)
        logits: Tensor = model(
            input_ids=ids_UT, attention_mask=mask_UT, decoder_input_ids=answers_UL
        ).logits
        return logits


@pytest.mark.parametrize("name", TINY)
def test_the_sizes_are_those_of_the_modules(make_tiny: MakeTiny, name: str) -> None:
    backbone = make_tiny(name)
    model, family = backbone.model, backbone.family
    stacks = backbone.stacks()
    sizes = {"encoder": backbone.encoder_sizes}
    if backbone.has_decoder:
        sizes["decoder"] = backbone.decoder_sizes
        assert backbone.vocabulary_weight.shape == (
            backbone.vocabulary_size,
            sizes["decoder"].width,
        )
    for stack, (whole, blocks) in stacks.items():
        assert len(blocks) == sizes[stack].depth
        modules = set(whole.modules())
        assert set(blocks) <= modules
        size = sizes[stack]
        for attention in family.attentions(model):
            if model.get_submodule(attention.sublayer) not in modules:
                continue
            heads_width = size.heads * size.head_width
            query, output = map(model.get_submodule, (attention.query, attention.output))
            assert (query.in_features, query.out_features) == (size.width, heads_width)
            assert (output.in_features, output.out_features) == (heads_width, size.width)
            for projection in map(model.get_submodule, (attention.key, attention.value)):
                assert projection.out_features % size.head_width == 0
        for layers in family.feed_forwards(model):
            if model.get_submodule(layers.sublayer) not in modules:
                continue
            assert len(layers.inner) == (2 if size.is_gated else 1)
            for inner in map(model.get_submodule, layers.inner):
                assert (inner.in_features, inner.out_features) == (size.width, size.inner_width)
            assert model.get_submodule(layers.output).out_features == size.width


@pytest.mark.parametrize("name", TINY)
def test_every_linear_layer_of_the_blocks_is_listed(make_tiny: MakeTiny, name: str) -> None:
    """The lists by meaning cover all that `linear_layers`, which is quantized, has in blocks."""
    backbone = make_tiny(name)
    model, family = backbone.model, backbone.family
    named = {
        module
        for layers in family.attentions(model)
        for module in (layers.query, layers.key, layers.value, layers.output)
    } | {
        module
        for layers in family.feed_forwards(model)
        for module in (*layers.inner, layers.output)
    }
    listed = {model.get_submodule(name) for name in named}
    in_blocks = {
        module
        for _, blocks in backbone.stacks().values()
        for block in blocks
        for module in block.modules()
        if isinstance(module, nn.Linear)
    }
    assert listed == in_blocks
    assert listed <= set(family.linear_layers(model))


@pytest.mark.parametrize("name", TINY)
def test_encoder_taps_equal_the_stock_models_hidden_states(saved_backbones: Any, name: str) -> None:
    backbone, stock = saved_backbones.load(name).backbone, saved_backbones.stock(name)
    ids_UT = prompt_ids(backbone)
    mask_UT = ids_UT != backbone.pad_token_id
    taps = backbone.encode(ids_UT, range(backbone.encoder_depth))
    encoder = backbone.family.encoder(stock)
    with torch.no_grad():
        expected = encoder(
            input_ids=ids_UT, attention_mask=mask_UT.long(), output_hidden_states=True
        )
    assert torch.equal(taps.mask_UT, mask_UT)
    compare_taps(backbone, taps.embedding_UTD, taps.blocks_KUTD, taps.final_UTD, expected, mask_UT)


@pytest.mark.parametrize("name", TINY)
def test_dropout_in_training_changes_nothing_in_evaluation(saved_backbones: Any, name: str) -> None:
    backbone = saved_backbones.copy(name)
    ids_UT = prompt_ids(backbone)
    expected = backbone.encode(ids_UT, [0, 1])
    backbone.enable_dropout(0.1)
    found = backbone.encode(ids_UT, [0, 1])
    torch.testing.assert_close(found.embedding_UTD, expected.embedding_UTD)
    torch.testing.assert_close(found.blocks_KUTD, expected.blocks_KUTD)


@pytest.mark.parametrize("name", WITH_DECODER)
def test_decoder_taps_equal_the_stock_models_hidden_states(saved_backbones: Any, name: str) -> None:
    backbone, stock = saved_backbones.load(name).backbone, saved_backbones.stock(name)
    ids_UT = prompt_ids(backbone)
    answers_UL = prompt_ids(backbone, seed=5)[:, :4]
    encoded = backbone.encode(ids_UT, [0])
    taps = backbone.decode(
        answers_UL,
        range(backbone.decoder_depth),
        encoder_states_PTD=encoded.final_UTD,
        encoder_mask_PT=encoded.mask_UT,
    )
    with torch.no_grad():
        expected = backbone.family.decoder(stock)(
            input_ids=answers_UL,
            encoder_hidden_states=encoded.final_UTD,
            encoder_attention_mask=encoded.mask_UT.long(),
            output_hidden_states=True,
        )
    everywhere = torch.ones_like(answers_UL, dtype=torch.bool)
    compare_taps(
        backbone, taps.embedding_PLD, taps.blocks_KPLD, taps.final_PLD, expected, everywhere
    )
    with torch.no_grad():
        logits = stock(
            input_ids=ids_UT, attention_mask=encoded.mask_UT.long(), decoder_input_ids=answers_UL
        ).logits
    torch.testing.assert_close(
        output_logits(backbone, taps.final_PLD), logits, rtol=1e-5, atol=1e-5
    )


def compare_taps(
    backbone: Backbone,
    embedding: Tensor,
    blocks: Tensor,
    final: Tensor,
    expected: Any,
    mask: Tensor,
) -> None:
    """Compare with a stack's output with hidden states, the last of which is its final output."""

    def assert_close(found: Tensor, states: Tensor) -> None:
        torch.testing.assert_close(found[mask], states[mask], rtol=1e-5, atol=1e-5)

    hidden = expected.hidden_states
    assert len(hidden) == len(blocks) + 1
    assert_close(embedding, hidden[0])
    for tap, states in zip(blocks[:-1], hidden[1:-1], strict=True):
        assert_close(tap, states)
    assert_close(final, expected.last_hidden_state)
    # Between the last block and the output there is at most a norm.
    norms = [
        norm
        for norm in backbone.family.norms(backbone.model)
        if norm.get_parameter("weight").shape == final.shape[-1:]
    ]
    with torch.no_grad():
        candidates = [blocks[-1], *(norm(blocks[-1]) for norm in norms)]
    assert any(
        torch.allclose(states[mask], final[mask], rtol=1e-5, atol=1e-5) for states in candidates
    )


def output_logits(backbone: Backbone, states_PLD: Tensor) -> Tensor:
    """Return logits by the formula of `OutputLayer`."""
    layer = backbone.family.output_layer(backbone.model)
    logits: Tensor = layer.scale * states_PLD @ layer.weight_VW.T
    if layer.bias_V is not None:
        logits = logits + layer.bias_V
    if layer.softcap is not None:
        logits = layer.softcap * torch.tanh(logits / layer.softcap)
    return logits


@pytest.mark.parametrize("name", WITH_DECODER)
def test_decoding_with_a_cache_equals_decoding_without(make_tiny: MakeTiny, name: str) -> None:
    """Also after rows have been dropped, repeated and reordered."""
    backbone = make_tiny(name)
    layers = range(backbone.decoder_depth)
    encoded = backbone.encode(prompt_ids(backbone), layers[:1])
    answers_PL = prompt_ids(backbone, seed=5)[:, :6]
    memory, mask = encoded.final_UTD, encoded.mask_UT
    cache = backbone.new_cache()
    rows = torch.arange(len(answers_PL))
    order = {2: torch.tensor([0, 2, 3, 3]), 4: torch.tensor([1, 0, 3, 2])}
    for position in range(answers_PL.shape[1]):
        if position in order:
            rows = rows[order[position]]
            answers_PL = answers_PL[order[position]]
            memory, mask = memory[order[position]], mask[order[position]]
            cache.select(order[position])
        step, whole = (
            backbone.decode(
                ids_PL, layers, encoder_states_PTD=memory, encoder_mask_PT=mask, cache=used
            )
            for ids_PL, used in (
                (answers_PL[:, position : position + 1], cache),
                (answers_PL[:, : position + 1], None),
            )
        )
        torch.testing.assert_close(step.embedding_PLD[:, 0], whole.embedding_PLD[:, -1])
        torch.testing.assert_close(
            step.blocks_KPLD[:, :, 0], whole.blocks_KPLD[:, :, -1], rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(
            step.final_PLD[:, 0], whole.final_PLD[:, -1], rtol=1e-5, atol=1e-5
        )


def untouched(backbone: FrozenBackbone) -> tuple[JointModel, Batch]:
    """Return a model that only generates from texts, and a batch without images."""
    joint = JointBackbone(backbone.model, dropout=0.0, family=backbone.family)
    model = JointModel(joint, visual=visual_for(joint), head=HeadConfig(kind="generate")).eval()
    return model, tiny_batch(joint, images=0)


def stock_ids(model: Any, backbone: Backbone, batch: Batch, beams: int, eos: int | None) -> Tensor:
    """Return the ids of `generate` of the stock model, padded to `MAX_LENGTH`."""
    ids_BT = batch.prompt_ids_UT[batch.prompt_index_B]
    settings = GenerationConfig(
        max_length=MAX_LENGTH,
        num_beams=beams,
        do_sample=False,
        pad_token_id=backbone.pad_token_id,
        eos_token_id=eos,
        decoder_start_token_id=backbone.start_token_id,
        forced_bos_token_id=backbone.forced_bos_token_id,
        forced_eos_token_id=backbone.forced_eos_token_id,
    )
    model = copy.deepcopy(model)
    model.generation_config = settings
    ids_BL: Tensor = model.generate(
        input_ids=ids_BT, attention_mask=(ids_BT != backbone.pad_token_id).long()
    )
    missing = MAX_LENGTH - ids_BL.shape[1]
    return nn.functional.pad(ids_BL, (0, missing), value=backbone.pad_token_id)


@pytest.mark.parametrize("name", WITH_DECODER)
def test_greedy_search_equals_the_stock_models(
    saved_backbones: Any, make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model, batch = untouched(make_tiny(name))
    stock = saved_backbones.stock(name)
    # Ends some answers early.
    with monkeypatch.context() as endless:
        endless.setattr(Backbone, "eos_token_id", -1)
        likely = int(greedy_search(model, batch, max_length=MAX_LENGTH)[0, 3])
    for eos in (model.backbone.eos_token_id, likely):
        monkeypatch.setattr(Backbone, "end_token_ids", (eos,))
        found = greedy_search(model, batch, max_length=MAX_LENGTH)
        missing = MAX_LENGTH - found.shape[1]
        found = nn.functional.pad(found, (0, missing), value=model.backbone.pad_token_id)
        assert torch.equal(found, stock_ids(stock, model.backbone, batch, 1, eos))


@pytest.mark.parametrize("name", WITH_DECODER)
def test_beam_search_equals_the_stock_models_for_answers_of_one_length(
    saved_backbones: Any, make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Versions of transformers differ in how they compare answers of different lengths."""
    model, batch = untouched(make_tiny(name))
    monkeypatch.setattr(Backbone, "end_token_ids", (-1,))
    found, _ = beam_search(model, batch, max_length=MAX_LENGTH, beams=3)
    expected = stock_ids(saved_backbones.stock(name), model.backbone, batch, 3, None)
    assert torch.equal(found, expected)


def drop_everywhere(model: nn.Module, probability: float) -> None:
    """Set everything that is named after dropping, in modules and configurations."""
    holders: list[Any] = [*model.modules()]
    holders += [module.config for module in model.modules() if hasattr(module, "config")]
    for holder in holders:
        if isinstance(holder, nn.Dropout):
            holder.p = probability
            continue
        for key, value in list(vars(holder).items()):
            if "drop" in key and type(value) in (float, int):
                setattr(holder, key, probability)


@pytest.mark.parametrize("name", TINY)
def test_dropout_can_be_set_everywhere(make_tiny: MakeTiny, name: str) -> None:
    """Whatever the checkpoint says, 0 turns all of it off, and it is off in evaluation."""
    backbone = make_tiny(name)
    drop_everywhere(backbone.model, 0.5)
    batch = tiny_batch(backbone)

    def states() -> Iterator[Tensor]:
        encoded = backbone.encode(batch.prompt_ids_UT, [0])
        yield encoded.final_UTD
        if backbone.has_decoder:
            yield backbone.decode(
                batch.prompt_ids_UT,
                [0],
                encoder_states_PTD=encoded.final_UTD.clone(),
                encoder_mask_PT=encoded.mask_UT,
            ).final_PLD

    def equal(left: list[Tensor], right: list[Tensor]) -> bool:
        return all(map(torch.equal, left, right))

    clean = list(states())
    assert equal(list(states()), clean), "evaluation mode"
    backbone.enable_dropout(0.0)
    backbone.model.train()
    assert equal(list(states()), clean), "probability 0"
    backbone.enable_dropout(0.5)
    backbone.train()
    noisy = list(states())
    assert not any(map(torch.equal, noisy, clean))
    backbone.eval()
    assert equal(list(states()), clean)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("int8", 0.05), ("nf4", 0.4)])
def test_states_in_lower_precision_are_close(
    saved_backbones: Any, name: str, precision: str, tolerance: float
) -> None:
    exact = saved_backbones.load(name).backbone
    other = saved_backbones.load(name, precision).backbone
    ids_UT = prompt_ids(exact)
    expected, found = (
        backbone.encode(ids_UT, [0]).final_UTD[ids_UT != exact.pad_token_id]
        for backbone in (exact, other)
    )
    assert found.dtype == torch.bfloat16
    assert 0 < float((found.float() - expected).norm() / expected.norm()) < tolerance
    if precision != "bf16":
        plain = saved_backbones.load(name, "bf16").backbone
        freed = bytes_freed_by_quantization(plain, precision)  # type: ignore[arg-type]
        assert model_bytes(plain) - model_bytes(other) == freed
