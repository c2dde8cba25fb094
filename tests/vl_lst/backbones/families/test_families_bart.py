"""BART and mBART: checkpoints of both kinds, positions, forced tokens, and the output bias."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import TinyWorld
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.loading import load_backbone
from vl_lst.errors import ModelError
from vl_lst.generation.search import beam_search, greedy_search
from vl_lst.methods import get_method
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.joint import JointBackbone, JointEncoding, JointModel
from vl_lst.run import load_run
from vl_lst.training.session import train

TYPES = ("bart", "mbart")
WORDS = (
    "<s> <pad> </s> <unk> vqa : ? what color is it red green blue yes no maybe a thing of".split()
)
PAD, START = 1, 2
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 160,
    "decoder_start_token_id": START,
}


def build(model_type: str, seed: int = 0, **others: Any) -> Any:
    """Return a random model with a bias of its output layer."""
    torch.manual_seed(seed)
    fields = SIZES | others
    model = (
        BartForConditionalGeneration(BartConfig(**fields))
        if model_type == "bart"
        else MBartForConditionalGeneration(MBartConfig(scale_embedding=True, **fields))
    )
    with torch.no_grad():
        for parameter in model.parameters():
            # Far from zero, so that random models do not repeat one token.
            parameter += 0.3 * torch.randn_like(parameter)
        model.final_logits_bias.normal_()
    return model.eval()


def write_folder(model: Any, folder: Path) -> Path:
    """Write a checkpoint with the tokenizer of `WORDS`."""
    model.save_pretrained(folder)
    ids = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    ).save_pretrained(folder)
    return folder


def prompts() -> Tensor:
    """Return ids of texts of different lengths."""
    ids = torch.randint(4, len(WORDS), (4, 7), generator=torch.Generator().manual_seed(1))
    ids[1, 3:] = PAD
    ids[2, 6:] = PAD
    return ids


def text_model(model: Any) -> tuple[JointModel, Batch]:
    """Return a model that reads the prompts without images, and its batch."""
    backbone = JointBackbone(model, dropout=0.0)
    visual = VisualConfig(channels=4, tokens=1, pooled_grid=None)
    joint = JointModel(backbone, visual=visual, head=HeadConfig(kind="generate")).eval()
    ids = prompts()
    batch = Batch(
        features_BINF=torch.zeros(len(ids), 1, 1, 4),
        prompt_ids_UT=ids,
        prompt_index_B=torch.arange(len(ids)),
    )
    mask = ids != PAD
    states = backbone.encode(backbone.embed(ids), mask, text=None).detach()
    joint.encode = lambda _: JointEncoding(states, mask, 0)
    return joint, batch


@pytest.mark.parametrize("model_type", TYPES)
def test_states_equal_those_of_the_stock_model(model_type: str) -> None:
    model = build(model_type)
    ids, answers = prompts(), prompts()[:, :5]
    with torch.no_grad():
        stock = model(
            input_ids=ids,
            attention_mask=(ids != PAD).long(),
            decoder_input_ids=answers,
            output_hidden_states=True,
        )
    backbone = FrozenBackbone(model)
    encoded = backbone.encode(ids, [0, 1])
    decoded = backbone.decode(
        answers, [1, 2], encoder_states_PTD=encoded.final_UTD, encoder_mask_PT=encoded.mask_UT
    )
    same = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(encoded.embedding_UTD, stock.encoder_hidden_states[0], **same)
    torch.testing.assert_close(encoded.blocks_KUTD[0], stock.encoder_hidden_states[1], **same)
    torch.testing.assert_close(encoded.final_UTD, stock.encoder_last_hidden_state, **same)
    torch.testing.assert_close(decoded.embedding_PLD, stock.decoder_hidden_states[0], **same)
    torch.testing.assert_close(decoded.blocks_KPLD[0], stock.decoder_hidden_states[2], **same)
    # mBART has a norm after the last block, whose input is the residual stream.
    is_final = torch.equal(encoded.blocks_KUTD[1], encoded.final_UTD)
    assert is_final == (model_type == "bart")
    logits = decoded.final_PLD @ backbone.vocabulary_weight.T + backbone.vocabulary_bias
    torch.testing.assert_close(logits, stock.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("forced", [None, 0, 9])
@pytest.mark.parametrize("model_type", TYPES)
def test_greedy_answers_equal_those_of_generate(model_type: str, forced: int | None) -> None:
    model = build(model_type, seed=1)
    model.generation_config.forced_bos_token_id = forced
    if forced == 0:
        model.generation_config.forced_eos_token_id = None
    ids = prompts()
    stock = model.generate(
        input_ids=ids, attention_mask=(ids != PAD).long(), max_length=12, num_beams=1
    )
    joint, batch = text_model(model)
    found = greedy_search(joint, batch, max_length=12)
    assert torch.equal(found, stock)
    assert found[:, 0].unique().tolist() == [START]
    if forced is not None:
        assert found[:, 1].unique().tolist() == [forced]
        beams, scores = beam_search(joint, batch, max_length=12, beams=3)
        assert beams[:, 1].unique().tolist() == [forced]
        assert torch.isfinite(scores).all()
        assert (beams[:, -1] == 2).all() or forced == 0, "the last token is forced"
    assert len({tuple(row) for row in found.tolist()}) > 1


def test_the_bias_of_the_output_layer_is_a_weight_too(tmp_path: Path) -> None:
    """It is a buffer of the stock model: no run resumes with another, and none may be NaN."""
    model = build("bart")
    fingerprint = load_backbone(write_folder(model, tmp_path)).fingerprint
    model.final_logits_bias[0, 5] += 1
    assert load_backbone(write_folder(model, tmp_path)).fingerprint != fingerprint
    model.final_logits_bias[0, 5] = torch.nan
    with pytest.raises(ModelError, match="damaged: final_logits_bias has values that are not fin"):
        load_backbone(write_folder(model, tmp_path))


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("model_type", TYPES)
def test_checkpoints_of_the_base_model_load_too(
    model_type: str, base: bool, tmp_path: Path
) -> None:
    model = build(model_type)
    if base:
        model.final_logits_bias.zero_()
    folder = write_folder(model, tmp_path)
    if base:
        weights = load_file(folder / "model.safetensors")
        names = [name for name in weights if name.startswith("model.")]
        assert len(names) == len(weights) - 1, "the bias is the only tensor outside the base model"
        shortened = {name.removeprefix("model."): weights[name] for name in names}
        # Other classes add heads, and early versions a number.
        shortened["classification_head.dense.weight"] = torch.zeros(2, 2)
        shortened["encoder.version"] = torch.zeros(1)
        save_file(shortened, folder / "model.safetensors")
    loaded = load_backbone(str(folder)).backbone
    assert loaded.start_token_id == START
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if name.endswith("fc2.bias")))
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lack 1 tensors, such as 'model\.\w+\.layers"):
        load_backbone(str(folder))


def test_tokens_of_an_answers_start_are_read_from_both_files(tmp_path: Path) -> None:
    folder = write_folder(build("bart"), tmp_path)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config |= {"decoder_start_token_id": 2, "forced_bos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    backbone = load_backbone(str(folder)).backbone
    assert (backbone.start_token_id, backbone.forced_bos_token_id) == (2, 0)
    assert backbone.forced_eos_token_id == 2
    ids = prompts()[:1]
    assert backbone.model.generate(input_ids=ids, max_length=5)[0, :2].tolist() == [2, 0]
    chosen = {"decoder_start_token_id": 4, "forced_bos_token_id": 5}
    (folder / "generation_config.json").write_text(json.dumps(chosen))
    backbone = load_backbone(str(folder)).backbone
    assert (backbone.start_token_id, backbone.forced_bos_token_id) == (4, 5)
    assert backbone.forced_eos_token_id is None
    assert backbone.model.generate(input_ids=ids, max_length=5)[0, :2].tolist() == [4, 5]


def test_without_a_start_token_mbart_starts_as_generate_does(tmp_path: Path) -> None:
    model = build("mbart", decoder_start_token_id=None)
    ids = prompts()
    start = model.generate(input_ids=ids, max_length=3, num_beams=1)[:, 0]
    assert start.unique().tolist() == [0]
    assert FrozenBackbone(model).start_token_id == 0
    assert load_backbone(str(write_folder(model, tmp_path))).backbone.start_token_id == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder_attention_heads": 3}, "decoder_attention_heads is 3, expected a divisor of"),
        ({"encoder_layers": 0}, "encoder_layers: found 0"),
        ({"encoder_ffn_dim": None}, "encoder_ffn_dim: found None"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings: found"),
        ({"max_position_embeddings": 50}, "does not fit config.json: found"),
        ({"activation_function": "sorcery"}, "not an activation"),
        ({"forced_bos_token_id": 99}, "forced_bos_token_id is 99, beyond the vocab_size"),
        ({"dropout": 1.5}, "dropout: found 1.5"),
    ],
)
def test_invalid_config_fields_are_named(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    folder = write_folder(build("bart"), tmp_path)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        load_backbone(str(folder))


def attach(name: str, model: Any, kind: str = "generate") -> tuple[Any, dict[str, Any]]:
    method = get_method(name)
    options = method.options.model_validate(
        {"dropout": 0.0, **({"reduction": 2} if name in ("lst", "side") else {})}
    )
    built = method.attach(
        FrozenBackbone(model),
        options,
        visual=VisualConfig(channels=4, tokens=4, pooled_grid=None),
        heads={DEFAULT_TASK: HeadConfig(kind=kind, answers=3 if kind == "classify" else 0)},  # type: ignore[arg-type]
    )
    return built.eval(), method.trainable(built)


def image_batch() -> Batch:
    ids = prompts()
    labels = ids[:, :4].masked_fill(ids[:, :4] == PAD, -100)
    return Batch(
        features_BINF=torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(2)),
        prompt_ids_UT=ids,
        prompt_index_B=torch.arange(4),
        labels_BL=labels,
        pair_rows_P=torch.arange(4),
        pair_index_B=torch.arange(4),
        weights_B=torch.ones(4),
    )


@pytest.mark.parametrize("method", ["lora", "prompt", "lst"])
@pytest.mark.parametrize("model_type", TYPES)
def test_padding_does_not_affect_an_example(model_type: str, method: str) -> None:
    """Image tokens follow the text: with positions, they would depend on the longest prompt."""
    torch.manual_seed(3)
    model, _ = attach(method, build(model_type))
    together = image_batch()
    alone = replace(
        together,
        features_BINF=together.features_BINF[1:2],
        prompt_ids_UT=together.prompt_ids_UT[1:2, :3],
        prompt_index_B=torch.zeros(1, dtype=torch.long),
        labels_BL=together.labels_BL[1:2, :3],
        pair_rows_P=None,
        pair_index_B=None,
        weights_B=torch.ones(1),
    )
    with torch.no_grad():
        expected, found = model.token_losses(together)[1:2, :3], model.token_losses(alone)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_methods_bias_is_added_to_the_models_own() -> None:
    model, trainable = attach("bitfit", build("bart"))
    bias = model.backbone.model.lm_head.bias
    with torch.no_grad():
        bias += torch.randn_like(bias)
    own = model.backbone.model.final_logits_bias[0]
    assert torch.equal(model.backbone.vocabulary_bias, own + bias)
    model(image_batch()).backward()
    assert any(parameter is bias for parameter in trainable.values())
    assert bias.grad is not None
    assert bias.grad.abs().sum() > 0


def test_layers_are_never_dropped() -> None:
    joint = JointBackbone(build("bart", encoder_layerdrop=0.9, decoder_layerdrop=0.9), dropout=0.5)
    assert joint.model.model.encoder.layerdrop == joint.model.model.decoder.layerdrop == 0
    assert joint.model.model.encoder.layers[0].self_attn.dropout == 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build("bart")
    model.generation_config.forced_bos_token_id = 0
    return write_folder(model, tmp_path_factory.mktemp("bart"))


@pytest.mark.parametrize(
    ("method", "head", "constrained"),
    [("lst", "generate", True), ("lora", "generate", False), ("side", "classify", False)],
)
def test_a_run_trains_and_answers(
    world: TinyWorld, folder: Path, tmp_path: Path, method: str, head: str, constrained: bool
) -> None:
    settings: dict[str, Any] = {
        "backbone__name": str(folder),
        "method__name": method,
        "method__options": {} if method == "lora" else {"reduction": 2},
        "head": head,
        "generation__constrain_to_answers": constrained,
        "data__max_prompt_tokens": 16,
    }
    train(world.recipe(**settings), tmp_path / "run")
    answer = (
        load_run(tmp_path / "run")
        .predict(world.image("red"), "what color is it?", encoder_weights=world.encoder)
        .answer
    )
    if head == "classify" or constrained:
        assert answer in ("red", "green", "blue", "yes", "no")
    else:
        assert not any(token in answer for token in WORDS[:3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method__name": "lora", "data__max_prompt_tokens": 158},
            "its encoder may read 162 for vqa: up to 158 of the prompt and 4 of images and the "
            "method; lower data.max_prompt_tokens.vqa to at most 156",
        ),
        (
            {"method__name": "prompt", "method__options__tokens": 300},
            "up to 128 of the prompt and 304 of images and the method; pass fewer image tokens",
        ),
        (
            {"data__max_prompt_tokens": 161},
            "its encoder may read 161 for vqa: up to 161 of the prompt; lower .* to at most 160",
        ),
        (
            {"head": "generate", "generation__max_length": 161},
            "its decoder may read 161 for vqa: lower generation.max_length.vqa to at most 160",
        ),
    ],
)
def test_limits_beyond_the_positions_are_refused_before_training(
    world: TinyWorld, folder: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    recipe = world.recipe(backbone__name=str(folder), **settings)
    with pytest.raises(ModelError, match=message):
        train(recipe, tmp_path / "run")
