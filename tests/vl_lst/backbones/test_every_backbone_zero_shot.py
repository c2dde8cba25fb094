"""Backbones of every family answer without training as their stock models do, or are refused.

`tests/vl_lst/run/test_run_zero_shot_images.py` has more tests with photographs.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_backbones import TinyBackbone, build_stock, tiny_backbones
from tiny_vision_language import write_preprocessing
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer

import vl_lst
from vl_lst.backbones.families import find_family
from vl_lst.errors import ModelError

# That of the guide cannot be loaded by name.
TINY = {name: tiny for name, tiny in tiny_backbones().items() if tiny.family is None}
FAMILIES = {name: find_family(tiny.build().config.model_type) for name, tiny in TINY.items()}
ENCODERS = [name for name, family in FAMILIES.items() if not family.has_decoder]
READERS_OF_TEXT = [
    name for name, family in FAMILIES.items() if family.has_decoder and not family.reads_images
]
QUESTIONS = ("what color is it ?", "is it red ?", "is a thing of other green ?")
# The task's maximum, and the start token.
MAX_LENGTH = 11


class StockModel:
    """A stock model with its own tokenizer, in a folder.

    Args:
        tiny: What the model is made of.
        folder: Folder.
        seed: Seed for the weights. They outweigh the embedding of the last token, so that answers
            are seldom empty.
    """

    def __init__(self, tiny: TinyBackbone, folder: Path, seed: int) -> None:
        self.folder = folder
        self._model: Any = build_stock(tiny, seed)
        # Often tied to the embedding of answers.
        table = self._model.get_output_embeddings().weight
        with torch.no_grad():
            table *= 0.1
            for parameter in self._model.parameters():
                if parameter.ndim == 2 and parameter is not table:
                    parameter += 0.5 * torch.randn_like(parameter)
        self._model.save_pretrained(folder)
        tiny.tokenizer.save(folder, len(self._model.get_input_embeddings().weight))
        self._tokenizer = AutoTokenizer.from_pretrained(folder)

    def answer(self, prompt: str) -> str:
        """Answer as `generate` does, given the tokens that such models are trained on."""
        tokenizer = self._tokenizer
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        if tokenizer.eos_token_id not in ids and ids[0, 0] != tokenizer.bos_token_id:
            ids = torch.cat((ids, torch.tensor([[tokenizer.eos_token_id]])), 1)
        return self._generate(ids)

    def answer_about(self, image: Image.Image, prompt: str) -> str:
        """Answer about an image, whose tokens come between its start token and the text."""
        config, tokenizer = self._model.config, self._tokenizer
        first, *text = tokenizer(prompt).input_ids
        encoder = config.encoder
        image_ids = [encoder.boi_token_index]
        image_ids += [config.image_token_index] * encoder.mm_tokens_per_image
        image_ids += [encoder.eoi_token_index]
        pixels = AutoImageProcessor.from_pretrained(self.folder)(image, return_tensors="pt")
        return self._generate(
            torch.tensor([[first, *image_ids, *text]]), pixel_values=pixels.pixel_values
        )

    def _generate(self, ids: Tensor, **inputs: Tensor) -> str:
        generated = self._model.generate(
            input_ids=ids,
            **inputs,
            max_length=MAX_LENGTH,
            num_beams=1,
            do_sample=False,
            forced_eos_token_id=None,
        )
        return str(self._tokenizer.decode(generated[0], skip_special_tokens=True)).strip()


@pytest.mark.parametrize("name", READERS_OF_TEXT)
def test_answers_are_those_of_generate_on_the_models_own_tokens(name: str, tmp_path: Path) -> None:
    compared = set()
    for seed in range(2):
        stock = StockModel(TINY[name], tmp_path / str(seed), seed)
        model = vl_lst.zero_shot(stock.folder, prompt="vqa : {} maybe")
        for question in QUESTIONS:
            expected = stock.answer(f"vqa : {question} maybe")
            assert model.predict(question=question).answer == expected
            compared.add(expected)
    assert len(compared - {""}) > 1, "answers must differ, and not be empty"


def test_answers_about_photographs_are_those_of_the_whole_model(tmp_path: Path) -> None:
    """That of T5Gemma 2; the other one that reads images is compared through the command line."""
    stock = StockModel(TINY["t5gemma2"], tmp_path, seed=0)
    write_preprocessing(tmp_path, 16)
    # None of these words has the id that stands for an image.
    model = vl_lst.zero_shot(tmp_path, prompt="is {} maybe")
    compared = set()
    for number, question in enumerate(("what color it", "it red of", "a thing")):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        expected = stock.answer_about(image, f"is {question} maybe")
        assert model.predict(image=image, question=question).answer == expected
        compared.add(expected)
    assert len(compared - {""}) > 1, "answers must differ, and not be empty"


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_without_a_decoder_is_refused(saved_backbones: Any, name: str) -> None:
    with pytest.raises(ModelError, match="has an encoder only, so it cannot answer without"):
        vl_lst.zero_shot(saved_backbones.folder(name))


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
@pytest.mark.parametrize("name", READERS_OF_TEXT)
def test_every_precision_answers(saved_backbones: Any, name: str, precision: Any) -> None:
    model = vl_lst.zero_shot(saved_backbones.folder(name), precision=precision)
    assert isinstance(model.predict(question=QUESTIONS[0]).answer, str)
