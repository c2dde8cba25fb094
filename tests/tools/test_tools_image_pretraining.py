"""Pretraining of the backbone that reads images: data, first projection and output folder."""

import json
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    T5ForConditionalGeneration,
)

from feature_extraction.encoders.encoder import build_encoder, encode_image
from tools import image_texts, pretrain_image_t5
from tools._image_t5 import GRID_SIDE, IMAGE_TOKENS, ImageT5, PictureFile
from tools._pretraining import ordered_batches
from tools.pretrain_t5 import END, UNKNOWN
from vl_lst.bundled import CLIP_FOLDER, IMAGE_BACKBONE_FOLDER, T5_FOLDER
from vl_lst.demo.captions import noun_phrase
from vl_lst.demo.rendering import render
from vl_lst.demo.scenes import Purpose, Scene, sample_scene, scene_seed
from vl_lst.demo.splits import PICTURE_SIZE

SCENES = [
    sample_scene(scene_seed(Purpose.PRETRAIN_IMAGE_T5_HELD_OUT, n), counts=(1, 1, 2, 3, 4))
    for n in range(300)
]
WORDS = sorted({word for s in SCENES for o in s.objects for word in (o.colour, o.shape, o.size)})


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(T5_FOLDER / "tokenizer.json"))


class NamedCells(PictureFile):
    """Cells that say which words name the objects in them, one-hot."""

    def __init__(self, scenes: list[Scene]) -> None:
        self.channels = len(WORDS) + 2 * GRID_SIDE
        self._cells = np.zeros((len(scenes), IMAGE_TOKENS, self.channels), dtype=np.float16)
        for cells, scene in zip(self._cells, scenes, strict=True):
            for o in scene.objects:
                cell = int(o.y * GRID_SIDE) * GRID_SIDE + int(o.x * GRID_SIDE)
                for word in (o.colour, o.shape, o.size):
                    cells[cell, WORDS.index(word)] += 1


def test_batches_do_not_depend_on_the_number_of_workers(tokenizer: Tokenizer) -> None:
    make = partial(
        pretrain_image_t5.make_batch,
        stage=0,
        tokenizer_json=tokenizer.to_str(),
        purpose=Purpose.PRETRAIN_IMAGE_T5_HELD_OUT,
        scenes=100,
        batch_size=4,
        seed=0,
    )
    count = len(pretrain_image_t5.FIRST_STAGE)
    here = list(ordered_batches(make, count=count, workers=0))
    there = list(ordered_batches(make, count=count, workers=1))
    assert {batch.pictures.shape[1] for batch in here} == {0, 1, 2}
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one.pictures, other.pictures)
        assert np.array_equal(one.texts.source, other.texts.source)
        assert np.array_equal(one.texts.target, other.texts.target)
        assert UNKNOWN not in one.texts.source
        assert (one.texts.source == END).any(1).all()


def test_no_text_answers_a_question() -> None:
    """A question is never followed by anything but other questions, and never has a target."""
    writers = {
        kind.write: kind.images
        for stage in pretrain_image_t5.STAGES
        for kind in stage
        if kind.images
    }
    questions = 0
    for write, images in writers.items():
        for number, scene in enumerate(SCENES):
            text = write([scene, SCENES[number - 1]][:images], Random(number))
            if "?" in text.source:
                questions += 1
                assert text.source.endswith("?")
                assert "." not in text.source
                assert text.target is None
    assert questions > 10


def test_statements_about_places_and_counts_are_true() -> None:
    checked = 0
    for number, scene in enumerate(SCENES):
        line = image_texts.state_facts([scene], Random(number)).source
        for sentence in line.split(": ")[-1].split(". "):
            words = sentence.rstrip(".").split()
            if words[:4] == ["the", "number", "of", "shapes"]:
                expected = len(scene.objects)
                assert words[-1] in (str(expected), image_texts.NUMBER_WORDS[expected])
                checked += 1
            elif words[2:5] == ["is", "on", "the"] and words[1] != "shape":
                (item,) = [o for o in scene.objects if o.shape == words[1]]
                assert words[5] == ("left" if item.x < 0.5 else "right")
                checked += 1
            elif words[:3] == ["there", "is", "no"]:
                named = {noun for o in scene.objects for noun in (noun_phrase(o), o.shape)}
                assert " ".join(words[3:5]) not in named
                assert words[3] not in named
                checked += 1
    assert checked > 50


def test_hidden_words_make_their_statements_true() -> None:
    kinds = set()
    for number, scene in enumerate(SCENES):
        for cloze in image_texts.hidden_words(scene, Random(number)):
            kinds.add(cloze.kind)
            asked = cloze.line.split()
            if cloze.kind == "colour":
                assert f"{cloze.word} {asked[4]}" in map(noun_phrase, scene.objects)
            elif cloze.kind == "shape":
                assert f"{asked[4]} {cloze.word}" in map(noun_phrase, scene.objects)
            elif cloze.kind == "count":
                assert int(cloze.word) == len(scene.objects)
            elif cloze.kind == "presence":
                is_there = asked[3] in {item.colour for item in scene.objects}
                assert cloze.word in (("a", "an") if is_there else ("no",))
            else:
                (item,) = [o for o in scene.objects if o.shape == asked[1]]
                assert (item.x < 0.5) == (cloze.word == "left")
    assert kinds == {"colour", "shape", "side", "count", "presence"}


def test_a_list_names_every_object_once_in_reading_order() -> None:
    for scene in SCENES:
        text = image_texts.list_of(scene)
        for o in scene.objects:
            assert noun_phrase(o, size=True) in text
        assert text.count(" in the ") == len(scene.objects)
        rows = [part for part in ("top", "bottom") if part in text]
        assert [text.index(row) for row in rows] == sorted(text.index(row) for row in rows)


def test_the_projection_starts_at_the_names_of_objects(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    pictures = NamedCells(SCENES)
    model = ImageT5(vocabulary_size=tokenizer.get_vocab_size(), channels=pictures.channels)
    model.name_objects(SCENES, pictures, tokenizer)
    embedding_KD = model.language_model.get_input_embeddings().weight
    for word, token_D in zip(WORDS, model.language_projection.weight.T, strict=False):
        similar_K = torch.cosine_similarity(embedding_KD, token_D[None])
        assert similar_K.argmax() == tokenizer.encode(word).ids[0]


def test_the_pictures_are_what_the_bundled_encoder_is_given(tmp_path: Path) -> None:
    """Pretraining and feature extraction pool and project the same cells."""
    scenes = SCENES[:3]
    pictures = PictureFile(tmp_path / "cells.npy", scenes, build_encoder(CLIP_FOLDER))
    encoder = build_encoder(IMAGE_BACKBONE_FOLDER)
    state = load_file(IMAGE_BACKBONE_FOLDER / "model.safetensors")
    weight_DC, bias_D = (state[f"language_projection.{n}"].float() for n in ("weight", "bias"))
    cells_BVC = pictures.cells(np.arange(3), torch.device("cpu"))
    extracted = [encode_image(render(scene, PICTURE_SIZE), encoder) for scene in scenes]
    np.testing.assert_allclose(cells_BVC @ weight_DC.T + bias_D, np.stack(extracted), atol=0.02)


@pytest.fixture(scope="module")
def model() -> ImageT5:
    torch.manual_seed(0)
    return ImageT5(vocabulary_size=666, channels=20)


@pytest.fixture(scope="module")
def folder(model: ImageT5, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "image_t5"
    pretrain_image_t5.save(model, folder)
    return folder


class TestSave:
    def test_the_language_model_loads_into_a_stock_t5(self, model: ImageT5, folder: Path) -> None:
        config = Blip2Config.from_pretrained(folder)
        stock = T5ForConditionalGeneration(config.text_config)
        prefix = "language_model."
        state = {
            name.removeprefix(prefix): tensor.float()
            for name, tensor in load_file(folder / "model.safetensors").items()
            if name.startswith(prefix)
        }
        found = stock.load_state_dict(state, strict=False)
        tied = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}
        assert not found.unexpected_keys
        assert set(found.missing_keys) <= tied
        inputs = {"input_ids": torch.tensor([[5, 6, 1]]), "labels": torch.tensor([[7, 1]])}
        close_to(stock(**inputs).logits, model.language_model(**inputs).logits)

    def test_the_names_are_those_of_the_whole_model(self, folder: Path) -> None:
        with torch.device("meta"):
            whole = Blip2ForConditionalGeneration(Blip2Config.from_pretrained(folder))
        assert load_file(folder / "model.safetensors").keys() <= whole.state_dict().keys()

    def test_the_configuration_is_complete(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        assert config["num_query_tokens"] == IMAGE_TOKENS
        assert config["text_config"]["model_type"] == "t5"
        assert len(AutoTokenizer.from_pretrained(folder)) == config["text_config"]["vocab_size"]


def close_to(found: Tensor, expected: Tensor) -> None:
    """Compare up to the rounding of weights to half precision."""
    numbers: npt.NDArray[np.float32] = expected.detach().numpy()
    np.testing.assert_allclose(found.detach().numpy(), numbers, atol=0.05 * numbers.std())
