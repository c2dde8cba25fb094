"""A T5Gemma 2 reads images as the stock model does, without its image encoder.

B examples, I images, N tokens per image, S tokens that the encoder reads.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_batches import prompt_ids
from tokenizers import AddedToken
from torch import Tensor
from transformers import Gemma3Processor, GemmaTokenizer
from transformers.models.gemma3.image_processing_gemma3 import Gemma3ImageProcessor

from vl_lst.backbones.families import find_family
from vl_lst.backbones.loading import LoadedBackbone, load_backbone
from vl_lst.backbones.random_weights import backbone_config, random_backbone
from vl_lst.backbones.tokenizer import CachingTokenizer, pad_rows
from vl_lst.errors import ModelError
from vl_lst.generation.search import greedy_search
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig
from vl_lst.models.joint import JointBackbone, JointModel

WEIGHTS = "model.safetensors"
TOKENS = 4
SIDE = 16
TEXTS = ["is it red", "a"]


@pytest.fixture(scope="module")
def whole(saved_backbones: Any) -> Any:
    """Return the stock model, with its image encoder."""
    saved_backbones.stock("t5gemma2")
    return saved_backbones._stock["t5gemma2"]


@pytest.fixture
def folder(saved_backbones: Any, tmp_path: Path) -> Path:
    """Return a folder with a tokenizer of the published kind, which has tokens for empty lines."""
    copied = Path(shutil.copytree(saved_backbones.folder("t5gemma2"), tmp_path / "t5gemma2"))
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_image>", "<end_of_image>", "<image>"]
    letters = [*"abcdefghijklmnopqrstuvwxyz", "▁", "\n"]
    tokenizer = GemmaTokenizer(
        vocab={token: number for number, token in enumerate([*special, *letters])},
        merges=[],
        mask_token="<unk>",
        add_bos_token=True,
        extra_special_tokens={
            "boi_token": special[4],
            "eoi_token": special[5],
            "image_token": special[6],
        },
    )
    tokenizer.add_tokens([AddedToken("\n" * count, normalized=False) for count in (2, 3, 4)])
    tokenizer.save_pretrained(copied)
    return copied


@pytest.fixture
def loaded(folder: Path) -> LoadedBackbone:
    return load_backbone(folder)


@pytest.fixture
def processor(folder: Path) -> Gemma3Processor:
    images = Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE})
    tokenizer = GemmaTokenizer.from_pretrained(folder)
    return Gemma3Processor(images, tokenizer, image_seq_length=TOKENS)


def processed(processor: Gemma3Processor, images: int) -> dict[str, Tensor]:
    """Return the stock model's input for `TEXTS` with images before each."""
    generator = torch.Generator().manual_seed(2)
    shape = (images, 3, SIDE, SIDE)
    pixels = [
        list(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)) for _ in TEXTS
    ]
    found = processor(
        text=["<start_of_image>" * images + text for text in TEXTS],
        images=pixels,
        return_tensors="pt",
        padding=True,
        padding_side="right",
    )
    return {name: found[name] for name in ("input_ids", "attention_mask", "pixel_values")}


def prompts(loaded: LoadedBackbone) -> Tensor:
    tokenizer = CachingTokenizer(loaded.tokenizer, start_token_id=2)
    return pad_rows([tokenizer.encode_prompt(text, 20) for text in TEXTS], padding=0)


def image_tokens(whole: Any, pixels: Tensor, images: int) -> Tensor:
    """Return the tokens [B, I, N, D] that the stock model puts in the places of images."""
    with torch.no_grad():
        tokens: Tensor = whole.get_image_features(pixels, return_dict=True).pooler_output
    return tokens.unflatten(0, (-1, images))


@pytest.mark.parametrize("images", [1, 2])
def test_states_equal_the_stock_models_on_the_pixels(
    whole: Any, loaded: LoadedBackbone, processor: Gemma3Processor, images: int
) -> None:
    stock = processed(processor, images)
    backbone = loaded.backbone
    features_BIND = image_tokens(whole, stock["pixel_values"], images)
    assert features_BIND.shape == (len(TEXTS), images, TOKENS, backbone.width)
    taps = backbone.encode(prompts(loaded), range(3), features_BIND)
    mask_BS = stock["attention_mask"].bool()
    assert torch.equal(taps.mask_UT, mask_BS)
    assert not mask_BS.all()
    with torch.no_grad():
        expected = whole.get_encoder()(**stock, output_hidden_states=True)
    found = [taps.embedding_UTD, *taps.blocks_KUTD[:-1], taps.final_UTD]
    for tap, states in zip(found, expected.hidden_states, strict=True):
        torch.testing.assert_close(tap[mask_BS], states[mask_BS], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("images", [1, 2])
def test_greedy_answers_equal_the_stock_models_on_the_pixels(
    whole: Any, loaded: LoadedBackbone, processor: Gemma3Processor, images: int
) -> None:
    stock = processed(processor, images)
    joint = JointBackbone(loaded.backbone.model, dropout=0.0)
    model = JointModel(joint, visual=None, head=HeadConfig(kind="generate")).eval()
    rows_B = torch.arange(len(TEXTS))
    batch = Batch(
        features_BINF=image_tokens(whole, stock["pixel_values"], images),
        prompt_ids_UT=prompts(loaded),
        prompt_index_B=rows_B,
        prompt_rows_U=rows_B,
    )
    found = greedy_search(model, batch, max_length=9)
    expected = whole.generate(**stock, max_length=9, do_sample=False)
    assert torch.equal(found, expected)
    without = replace(batch, features_BINF=torch.zeros_like(batch.features_BINF))
    assert not torch.equal(greedy_search(model, without, max_length=9), expected)


def test_without_the_token_of_a_beginning_the_images_come_first(loaded: LoadedBackbone) -> None:
    backbone = loaded.backbone
    ids_BT = torch.tensor([[2, 8, 9, 0], [8, 9, 10, 11]])
    images_BIND = torch.randn(2, 1, TOKENS, backbone.width)
    embedding_BSD, mask_BS = backbone.encoder_input(ids_BT, images_BIND)
    places = [(embedding_BSD[row] == images_BIND[row, 0, 0]).all(-1) for row in range(2)]
    begins = [int(place.nonzero()) for place in places]
    assert begins[0] == begins[1] + 1
    text_BTD = backbone.embed(ids_BT)
    assert torch.equal(embedding_BSD[0, 0], text_BTD[0, 0])
    assert torch.equal(embedding_BSD[1, -4:], text_BTD[1])
    assert mask_BS.sum(1).tolist() == [mask_BS.shape[1] - 1, mask_BS.shape[1]]


def test_a_small_vocabulary_without_the_tokens_around_images_is_read(
    saved_backbones: Any, whole: Any
) -> None:
    """No text of its tokenizer has them."""
    model = saved_backbones.copy("t5gemma2").model
    model.config.encoder.boi_token_index = 255_999
    backbone = type(saved_backbones.load("t5gemma2").backbone)(model)
    ids_BT = prompt_ids(backbone)
    ids_BT[:, 0] = 2
    images_BIND = torch.randn(len(ids_BT), 1, TOKENS, backbone.width)
    embedding_BSD, _ = backbone.encoder_input(ids_BT, images_BIND)
    assert torch.equal(embedding_BSD[:, 1 : 1 + TOKENS], images_BIND[:, 0])
    assert embedding_BSD.shape[1] == ids_BT.shape[1] + TOKENS + 1  # the end of the image


def renamed(folder: Path, new_name: Callable[[str], str | None]) -> None:
    """Rename the tensors of a checkpoint, or drop them if the new name is `None`."""
    state = {new_name(name): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file({name: t for name, t in state.items() if name is not None}, folder / WEIGHTS)


def test_the_image_encoder_is_neither_read_nor_built(folder: Path, loaded: LoadedBackbone) -> None:
    names = [name for name, _ in loaded.backbone.model.named_parameters()]
    assert not [name for name in names if "vision" in name or "projector" in name]
    # The projection is read, because features are compared with it.
    renamed(folder, lambda name: None if "vision_tower" in name else name)
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["vision_config"] |= {"hidden_size": 2**40, "image_size": 2**40}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_backbone(folder).fingerprint == loaded.fingerprint


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_published_names_of_tensors_are_known(
    folder: Path, loaded: LoadedBackbone, prefix: str
) -> None:
    """Published checkpoints have no `text_model`; the base class adds no `model.`."""

    def new_name(name: str) -> str:
        return name.replace("model.", prefix, 1).replace("encoder.text_model.", "encoder.")

    renamed(folder, new_name)
    assert load_backbone(folder).fingerprint == loaded.fingerprint


def test_a_missing_tensor_of_the_language_model_is_named(folder: Path) -> None:
    renamed(folder, lambda name: None if name.endswith("eoi_embedding") else name)
    with pytest.raises(
        ModelError, match=r"lack 2 tensors, such as 'model.decoder.embed_tokens.eoi"
    ):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"decoder": {"hidden_size": 28}}, "encoder has a hidden_size of 24 and the decoder one"),
        ({"decoder": {"vocab_size": 68}}, "encoder has a vocab_size of 67 and the decoder one of"),
        ({"encoder": {"text_config": None}}, "encoder.text_config: found None"),
        ({"encoder": {"boi_token_index": -1}}, "encoder.boi_token_index: found -1"),
        ({"encoder": {"mm_tokens_per_image": 10**9}}, "encoder.mm_tokens_per_image: found 1000000"),
        ({"decoder": {"attn_logit_softcapping": 5.0}}, "decoder.attn_logit_softcapping: found 5.0"),
    ],
)
def test_invalid_fields_are_named(
    folder: Path, changed: dict[str, dict[str, Any]], message: str
) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    for part, fields in changed.items():
        content[part] |= fields
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        load_backbone(folder)
    assert message in str(caught.value)


def test_the_projection_in_a_checkpoint_is_the_stock_models(whole: Any, folder: Path) -> None:
    family = find_family("t5gemma2")
    names = map(family.projection_tensor_name, load_file(folder / WEIGHTS))
    found = {name for name in names if name is not None}
    assert found == set(whole.model.encoder.multi_modal_projector.state_dict())
    assert family.tokens_per_image(load_backbone(folder).backbone.config) == TOKENS


def test_random_weights_have_no_image_encoder_either(folder: Path) -> None:
    def shapes(model: Any) -> Iterator[tuple[str, torch.Size]]:
        yield from ((name, parameter.shape) for name, parameter in model.named_parameters())

    built = random_backbone(*backbone_config(str(folder))).model
    assert dict(shapes(built)) == dict(shapes(load_backbone(folder).backbone.model))
