"""Encoders without a decoder: their checkpoints, positions, heads, and what they refuse."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_backbones import (
    TinyBackbone,
    TinyTokenizer,
    build_stock,
    save_backbone,
    tiny_backbones,
)
from tiny_batches import ANSWERS, VISUAL, prompt_ids, tiny_batch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertModel,
    ElectraConfig,
    ElectraModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from vl_lst.backbones.backbone import Backbone
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.loading import load_backbone
from vl_lst.backbones.tokenizer import CachingTokenizer
from vl_lst.errors import ModelError
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig
from vl_lst.recipes.building import attach_method

BYTES = TinyTokenizer(
    special={
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "cls_token": "<s>",
        "sep_token": "</s>",
    },
    template="<s> $A </s>",
)
SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
TINY = {name: tiny for name, tiny in tiny_backbones().items() if not tiny.has_decoder}
# Its blocks are those of the BERT in the shared suite; its positions are not.
TINY["roberta"] = TinyBackbone(
    build=lambda: RobertaModel(RobertaConfig(**SIZES), add_pooling_layer=False),
    tokenizer=BYTES,
    has_decoder=False,
)
CLASSIFY = {DEFAULT_TASK: HeadConfig(kind="classify", answers=ANSWERS)}
# Models that have something besides the encoder that is used, and relatives.
OTHERS: dict[str, Callable[[], PreTrainedModel]] = {
    "pooler": lambda: BertModel(BertConfig(**SIZES)),
    "heads": lambda: BertForPreTraining(BertConfig(**SIZES)),
    "tied head": lambda: RobertaForMaskedLM(RobertaConfig(**SIZES)),
    "xlm-roberta": lambda: XLMRobertaModel(XLMRobertaConfig(**SIZES)),
    "electra": lambda: ElectraModel(ElectraConfig(**SIZES, embedding_size=32)),
}


def attach(name: str, backbone: FrozenBackbone, **options: object) -> Any:
    torch.manual_seed(3)
    return attach_method(
        name,
        {"dropout": 0.0, **options},
        backbone,
        visual=VISUAL,
        heads=CLASSIFY,
        precision="fp32",
    )


def states_of(model: Any, ids_UT: Tensor, pad: int) -> Tensor:
    """Return the states of a stock model at tokens that are not padding."""
    mask_UT = ids_UT != pad
    with torch.no_grad():
        states: Tensor = model(ids_UT, mask_UT.long()).last_hidden_state
    return states[mask_UT]


@pytest.mark.parametrize("kind", OTHERS)
def test_models_with_a_pooler_or_a_head_are_read_too(kind: str) -> None:
    torch.manual_seed(0)
    stock = OTHERS[kind]().eval()
    backbone = FrozenBackbone(stock)
    ids_UT = prompt_ids(backbone)
    taps = backbone.encode(ids_UT, range(backbone.encoder_depth))
    expected = states_of(stock.base_model, ids_UT, backbone.pad_token_id)
    torch.testing.assert_close(taps.final_UTD[taps.mask_UT], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("method", ["full", "bitfit", "lora", "adapter"])
def test_poolers_and_heads_never_train(kind: str, method: str) -> None:
    """They have no gradient, for which distributed training would wait."""
    model, trainable = attach(method, FrozenBackbone(OTHERS[kind]()))
    model(tiny_batch(model.backbone)).backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == set(trainable)


def rewrite(folder: Path, change: Callable[[str], str | None], **extra: Tensor) -> None:
    """Rename the tensors of a checkpoint, drop those without a new name, and add others."""
    path = folder / "model.safetensors"
    tensors = {new: t for name, t in load_file(path).items() if (new := change(name))}
    save_file({**tensors, **extra}, path, metadata={"format": "pt"})


def published_bert(name: str) -> str:
    """Return a name as in the checkpoint of BERT that Google converted."""
    former = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for current, old in former.items():
        name = name.replace(current, old)
    return f"bert.{name}"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bert", published_bert),
        ("roberta", lambda name: f"roberta.{name}"),
        ("distilbert", lambda name: f"distilbert.{name}"),
        ("deberta-v3", lambda name: f"deberta.{name}"),
    ],
)
def test_checkpoints_with_prefixes_and_heads_load(
    tmp_path: Path, name: str, change: Callable[[str], str]
) -> None:
    stock = save_backbone(TINY[name], tmp_path)
    rewrite(
        tmp_path,
        change,
        **{
            "cls.predictions.bias": torch.zeros(7),
            "bert.pooler.dense.weight": torch.zeros(32, 32),
            "bert.embeddings.position_ids": torch.arange(40)[None],
        },
    )
    loaded = load_backbone(tmp_path).backbone
    ids_UT = prompt_ids(loaded)
    pad = loaded.pad_token_id
    assert torch.equal(states_of(loaded.model, ids_UT, pad), states_of(stock, ids_UT, pad))
    assert not any("pooler" in key for key, _ in loaded.named_parameters())


def test_a_checkpoint_with_missing_tensors_is_refused(tmp_path: Path) -> None:
    save_backbone(TINY["bert"], tmp_path)
    rewrite(tmp_path, lambda name: None if "layer.1.attention" in name else name)
    with pytest.raises(ModelError, match=r"lack 10 tensors, such as 'encoder\.layer\.1\.attent"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("name", "changed", "expected"),
    [
        ("bert", {"is_decoder": True}, "is_decoder: found True, expected False"),
        (
            "bert",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type: found 'relative_key', expected 'absolute'",
        ),
        (
            "bert",
            {"num_attention_heads": 5},
            "num_attention_heads is 5, expected a divisor of hidden_size, which is 32",
        ),
        ("bert", {"hidden_size": None}, "hidden_size: found None, expected a valid integer"),
        ("bert", {"pad_token_id": 61}, "pad_token_id is 61, beyond the vocab_size 61"),
        ("bert", {"hidden_act": "swish2"}, "hidden_act is 'swish2', which is not an activation"),
        (
            "bert",
            {"model_type": "electra"},
            "embedding_size is 128, expected hidden_size, which is 32",
        ),
        (
            "roberta",
            {"max_position_embeddings": 2},
            "max_position_embeddings is 2, expected more than 2, since positions start after",
        ),
        ("distilbert", {"n_heads": 3}, "n_heads is 3, expected a divisor of dim, which is 32"),
        (
            "deberta-v3",
            {"num_attention_heads": 5},
            "num_attention_heads is 5, expected a divisor of hidden_size, which is 32",
        ),
        ("deberta-v3", {"conv_kernel_size": 3}, "conv_kernel_size: found 3, expected 0"),
    ],
)
def test_configurations_of_other_models_are_refused(
    tmp_path: Path, name: str, changed: Mapping[str, object], expected: str
) -> None:
    save_backbone(TINY[name], tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(ModelError) as caught:
        load_backbone(tmp_path)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("name", "limit"), [("bert", 40), ("roberta", 38), ("distilbert", 40), ("deberta-v3", None)]
)
def test_as_many_tokens_are_read_as_there_are_positions(name: str, limit: int | None) -> None:
    """RoBERTa's positions start after the id of its padding token."""
    backbone = FrozenBackbone(build_stock(TINY[name]))
    assert backbone.max_positions == limit
    tokens = limit or 60
    ids_UT = torch.full((1, tokens), 9)
    assert torch.isfinite(backbone.encode(ids_UT, [0]).final_UTD).all()
    if limit is not None:
        with pytest.raises(ModelError, match=f"has positions for {limit} tokens.*{limit + 1}"):
            backbone.encode(torch.full((1, limit + 1), 9), [0])


@pytest.mark.parametrize("name", TINY)
def test_asking_an_encoder_for_a_decoder_is_an_error(name: str) -> None:
    backbone = Backbone(build_stock(TINY[name]))
    labels = torch.ones(1, 2, dtype=torch.long)
    states = torch.zeros(1, 2, 32)
    misuses: list[Callable[[], object]] = [
        lambda: backbone.start_token_id,
        lambda: backbone.eos_token_id,
        lambda: backbone.forced_bos_token_id,
        lambda: backbone.decoder_sizes,
        lambda: backbone.vocabulary_weight,
        lambda: backbone.shift_right(labels),
        backbone.new_cache,
        lambda: backbone.run_decoder(states, states, labels, None),
    ]
    for misuse in misuses:
        with pytest.raises(ModelError, match="has an encoder only, so it cannot generate text"):
            misuse()


@pytest.mark.parametrize("method", ["lst", "side", "full", "prompt"])
@pytest.mark.parametrize("name", TINY)
def test_answers_do_not_depend_on_the_other_prompts_of_a_batch(name: str, method: str) -> None:
    """Image tokens have the positions after the text, however long its padding is."""
    options = {"tokens": 3} if method == "prompt" else {}
    model, _ = attach(method, FrozenBackbone(build_stock(TINY[name])), **options)
    model.eval()
    batch = tiny_batch(model.backbone)
    with torch.no_grad():
        together = model.classify(batch)
        for row in range(len(batch)):
            ids_T = batch.prompt_ids_UT[batch.prompt_index_B[row]]
            alone = Batch(
                features_BINF=batch.features_BINF[row : row + 1],
                prompt_ids_UT=ids_T[ids_T != model.backbone.pad_token_id][None],
                prompt_index_B=torch.tensor([0]),
            )
            torch.testing.assert_close(
                model.classify(alone)[0], together[row], rtol=1e-5, atol=1e-5
            )


def test_a_ladder_has_a_side_encoder_only() -> None:
    model, trainable = attach("lst", FrozenBackbone(build_stock(TINY["bert"])), reduction=2)
    assert model.side.decoder is None
    assert model.side.upsample is None
    assert not any("decoder" in name or "upsample" in name for name in trainable)
    assert "side.encoder.first_rung.weight" in trainable


@pytest.mark.parametrize("name", TINY)
def test_side_tuning_reads_embeddings_as_large_as_image_tokens(name: str) -> None:
    """Before the model's first norm, they are so small that image tokens would drown them."""
    model, _ = attach("side", FrozenBackbone(build_stock(TINY[name])), reduction=2)
    taps = model.backbone.encode(prompt_ids(model.backbone), [0])
    size_UT = taps.embedding_UTD.square().mean(-1).sqrt()
    assert torch.allclose(size_UT[taps.mask_UT], torch.ones(()), atol=1e-3)


@pytest.mark.parametrize("method", ["lst", "side"])
def test_layers_of_a_decoder_are_refused(method: str) -> None:
    with pytest.raises(ModelError, match=r"decoder_layers is \[0\], and a backbone of type bert"):
        attach(method, FrozenBackbone(build_stock(TINY["bert"])), decoder_layers=[0])


def test_reductions_that_do_not_divide_a_size_are_refused() -> None:
    with pytest.raises(ModelError, match="the reduction 3 does not divide the width"):
        attach("lst", FrozenBackbone(build_stock(TINY["bert"])), reduction=3)


@pytest.mark.parametrize(
    ("name", "special"), [("bert", ("[CLS]", "[SEP]")), ("roberta", ("<s>", "</s>"))]
)
def test_prompts_have_the_special_tokens_of_pretraining(
    tmp_path: Path, name: str, special: tuple[str, str]
) -> None:
    """The first is the token whose state is classified; truncation keeps both."""
    save_backbone(TINY[name], tmp_path)
    loaded = load_backbone(tmp_path)
    tokenizer = CachingTokenizer(loaded.tokenizer)
    ids = tokenizer.encode_prompt("what color is it ?", 5)
    first, *_, last = loaded.tokenizer.convert_ids_to_tokens(ids)
    assert (len(ids), first, last) == (5, *special)


def test_a_tokenizer_of_a_word_list_loads(tmp_path: Path) -> None:
    """Published BERTs may have `vocab.txt` only."""
    save_backbone(TINY["bert"], tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "color", "##s", "?"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = CachingTokenizer(load_backbone(tmp_path).tokenizer)
    assert tokenizer.encode_prompt("What colors?", 9) == (2, 5, 6, 7, 8, 3)
