"""BLIP-2: its language model alone answers as the whole model does on the pixels."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_image_reader import IMAGE_TOKEN, image_reader, write_image_reader
from tiny_run import WORDS
from tiny_vision_language import NUM_QUERIES, SIDE, tokens_read
from torch import Tensor
from transformers import Blip2Config, GenerationConfig, OPTConfig, T5ForConditionalGeneration

from feature_extraction.encoders.encoder import build_encoder
from vl_lst.backbones.loading import LoadedBackbone, load_backbone
from vl_lst.backbones.tokenizer import CachingTokenizer, pad_rows
from vl_lst.errors import ModelError
from vl_lst.generation.search import greedy_search
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig, LadderConfig
from vl_lst.models.joint import JointBackbone, JointModel
from vl_lst.models.ladder.model import LadderModel

PROMPTS = ("what color is it ?", "is it red ?", "is it ?")
MAX_LENGTH = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_reader(tmp_path_factory.mktemp("models") / "reader")


@pytest.fixture(scope="module")
def stock(folder: Path) -> Any:
    """The whole model, which reads pixels."""
    return type(image_reader()).from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedBackbone:
    return load_backbone(folder)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(len(PROMPTS), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def text_ids(loaded: LoadedBackbone) -> Tensor:
    tokenizer = CachingTokenizer(loaded.tokenizer)
    rows = [tokenizer.encode_prompt(prompt, 20) for prompt in PROMPTS]
    return pad_rows(rows, padding=tokenizer.pad_token_id)


def stock_inputs(loaded: LoadedBackbone, stock: Any, pixels: Tensor) -> dict[str, Tensor]:
    """Return inputs as the model's own processor makes them: image tokens before the text."""
    ids_BT = text_ids(loaded)
    images_BQ = torch.full((len(ids_BT), NUM_QUERIES), stock.config.image_token_index)
    ids_BS = torch.cat((images_BQ, ids_BT), 1)
    return {
        "pixel_values": pixels,
        "input_ids": ids_BS,
        "attention_mask": (ids_BS != loaded.backbone.pad_token_id).long(),
    }


def test_only_the_language_model_is_loaded(loaded: LoadedBackbone, stock: Any) -> None:
    backbone = loaded.backbone
    assert type(backbone.model) is T5ForConditionalGeneration
    assert (backbone.reads_images, backbone.tokens_per_image) == (True, NUM_QUERIES)
    assert (backbone.width, backbone.encoder_depth, backbone.decoder_depth) == (16, 3, 2)
    expected = stock.language_model.state_dict()
    found = backbone.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_states_equal_the_whole_models_on_pixels(
    loaded: LoadedBackbone, stock: Any, pixels: Tensor
) -> None:
    backbone, ids_BT = loaded.backbone, text_ids(loaded)
    assert (ids_BT == backbone.pad_token_id).any(), "a prompt must be padded"
    answers_BL = ids_BT[:, :3].flip(1)
    images_BQD = tokens_read(stock, pixels, NUM_QUERIES)
    taps = backbone.encode(ids_BT, range(3), images_BQD[:, None])
    decoded = backbone.decode(
        answers_BL,
        range(2),
        encoder_states_PTD=taps.final_UTD,
        encoder_mask_PT=taps.mask_UT,
    )
    inputs = stock_inputs(loaded, stock, pixels)
    with torch.no_grad():
        expected = stock(
            **inputs, decoder_input_ids=answers_BL, output_hidden_states=True
        ).language_model_outputs
    mask_BS = inputs["attention_mask"].bool()
    assert torch.equal(taps.mask_UT, mask_BS)

    def assert_close(found: Tensor, states: Tensor) -> None:
        torch.testing.assert_close(found[mask_BS], states[mask_BS], rtol=1e-5, atol=1e-5)

    states = expected.encoder_hidden_states
    assert_close(taps.embedding_UTD, states[0])
    assert_close(taps.blocks_KUTD[0], states[1])
    assert_close(taps.blocks_KUTD[1], states[2])
    assert_close(taps.final_UTD, expected.encoder_last_hidden_state)
    blank = backbone.encode(ids_BT, [0], torch.zeros_like(images_BQD[:, None]))
    assert (blank.final_UTD - taps.final_UTD)[:, NUM_QUERIES].abs().amax(-1).min() > 0.01
    torch.testing.assert_close(
        decoded.final_PLD, expected.decoder_hidden_states[-1], rtol=1e-5, atol=1e-5
    )


def test_greedy_answers_equal_the_whole_models_on_pixels(
    loaded: LoadedBackbone, stock: Any, pixels: Tensor
) -> None:
    joint = JointBackbone(loaded.backbone.model, dropout=0.0, family=loaded.backbone.family)
    model = JointModel(joint, visual=None, head=HeadConfig(kind="generate")).eval()
    batch = Batch(
        features_BINF=tokens_read(stock, pixels, NUM_QUERIES)[:, None],
        prompt_ids_UT=text_ids(loaded),
        prompt_index_B=torch.arange(len(PROMPTS)),
        prompt_rows_U=torch.arange(len(PROMPTS)),
    )
    found = greedy_search(model, batch, max_length=MAX_LENGTH)
    stock.language_model.generation_config = GenerationConfig(
        max_length=MAX_LENGTH, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0
    )
    expected = stock.generate(**stock_inputs(loaded, stock, pixels))
    assert torch.equal(found, expected)


def test_the_projection_is_that_of_the_models_features(
    loaded: LoadedBackbone, folder: Path
) -> None:
    spec = build_encoder(folder, device="cpu").spec
    assert loaded.projection_sha256 == spec.projection_sha256 is not None
    assert load_backbone(folder, precision="bf16").projection_sha256 == spec.projection_sha256


def copy_with(folder: Path, target: Path, state: dict[str, Tensor]) -> Path:
    """Copy the folder of a backbone with other weights."""
    target.mkdir()
    for path in folder.iterdir():
        if path.suffix == ".json":
            (target / path.name).write_bytes(path.read_bytes())
    save_file(state, target / "model.safetensors")
    return target


def test_the_vision_model_is_not_read(folder: Path, loaded: LoadedBackbone, tmp_path: Path) -> None:
    state = load_file(folder / "model.safetensors")
    kept = {
        name: tensor
        for name, tensor in state.items()
        if name.startswith(("language_model.", "language_projection."))
    }
    assert len(kept) < len(state)
    smaller = load_backbone(copy_with(folder, tmp_path / "smaller", kept))
    assert smaller.fingerprint == loaded.fingerprint
    assert smaller.projection_sha256 == loaded.projection_sha256


def test_shards_without_the_language_model_may_be_absent(
    folder: Path, loaded: LoadedBackbone, tmp_path: Path
) -> None:
    state = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if name.startswith("language_")}
    sharded = copy_with(folder, tmp_path / "sharded", kept)
    (sharded / "model.safetensors").rename(sharded / "model-2.safetensors")
    places = {name: f"model-{2 if name in kept else 1}.safetensors" for name in state}
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert load_backbone(sharded).fingerprint == loaded.fingerprint


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("language_projection.", "lack the projection of image tokens"),
        ("language_model.decoder.block.1.layer.0", "lack 5 tensors, such as 'decoder.block.1"),
    ],
)
def test_incomplete_weights_are_refused(
    folder: Path, tmp_path: Path, left_out: str, message: str
) -> None:
    state = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(left_out)}
    with pytest.raises(ModelError, match=message):
        load_backbone(copy_with(folder, tmp_path / "incomplete", kept))


def test_a_text_with_the_name_of_the_image_token_is_plain_text(
    folder: Path, loaded: LoadedBackbone, tmp_path: Path
) -> None:
    """Also if the token's id is beyond the vocabulary of the language model."""
    beyond = write_image_reader(tmp_path / "beyond", vocab_size=len(WORDS))
    for each in (loaded, load_backbone(beyond)):
        assert IMAGE_TOKEN in each.tokenizer.get_vocab()
        tokenizer = CachingTokenizer(each.tokenizer)
        ids_BT = torch.tensor([tokenizer.encode_prompt(f"is it {IMAGE_TOKEN} red ?", 20)])
        assert int(ids_BT.max()) < len(WORDS)
        assert each.backbone.embed(ids_BT).isfinite().all()
        assert tokenizer.encode_prompt("is it red ?", 20)[-1] == tokenizer.eos_token_id


def config_of(folder: Path, **changes: Any) -> Path:
    """Change fields of a copy of `config.json`, which is all that is read before an error."""
    content = json.loads((folder / "config.json").read_text()) | changes
    return write_config(folder.parent / "changed", content)


def write_config(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": None}, "text_config is missing"),
        ({"text_config": {"model_type": "t5", "d_model": -1}}, "text_config.d_model: found -1"),
        ({"text_config": {"model_type": ["t5"]}}, r"language model is of the type \['t5'\]"),
        ({"num_query_tokens": 10**9}, "num_query_tokens: found 1000000000"),
        ({"decoder_start_token_id": 99}, "decoder_start_token_id is 99, beyond the vocab_size 21"),
        ({"model_type": "instructblip"}, "its model_type is instructblip; expected"),
    ],
)
def test_faulty_configurations_are_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_backbone(config_of(folder, **changes))


def test_a_decoder_as_language_model_is_refused(tmp_path: Path) -> None:
    Blip2Config(text_config=OPTConfig().to_dict()).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="of the type 'opt': expected an encoder-decoder of the"):
        load_backbone(tmp_path)


def test_sizes_that_a_file_leaves_out_are_the_defaults(tmp_path: Path) -> None:
    """transformers writes only what differs from its own defaults, such as no `d_kv` of 64."""
    from vl_lst.backbones.random_weights import backbone_config

    text = {"model_type": "t5", "d_model": 128, "num_heads": 2}
    content = {"model_type": "blip-2", "num_query_tokens": 7, "text_config": text}
    config, family = backbone_config(str(write_config(tmp_path / "short", content)))
    assert (config.d_kv, config.d_ff, config.num_layers, config.vocab_size) == (64, 2048, 6, 32_128)
    assert family.tokens_per_image(config) == 7


@pytest.mark.parametrize("kind", ["attenuate", "projection"])
def test_rungs_for_a_visual_embedding_are_refused(loaded: LoadedBackbone, kind: Any) -> None:
    """Without one, they would change nothing."""
    with pytest.raises(ModelError, match=f"image_rungs is {kind}, .* expected pass"):
        LadderModel(
            loaded.backbone,
            visual=None,
            ladder=LadderConfig(reduction=2, image_rungs=kind),
            head=HeadConfig(kind="generate"),
        )


def test_images_of_another_width_are_refused(loaded: LoadedBackbone) -> None:
    with pytest.raises(ModelError, match="tokens of images have 3 channels: expected .* have 16"):
        loaded.backbone.encode(torch.tensor([[4, 1]]), [0], torch.zeros(1, 1, 2, 3))
