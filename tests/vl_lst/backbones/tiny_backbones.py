"""Tiny random backbones of every family, and the folders that they are loaded from.

`families/tiny_NAME.py` next to this file defines `BACKBONES` of a family, by name; a new file is
found by itself. The guide for new backbones has another one.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from guide_backbone import guide_backbones, guide_family
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from vl_lst.backbones.families import find_family
from vl_lst.backbones.family import Family

__all__ = [
    "TinyBackbone",
    "TinyTokenizer",
    "build_stock",
    "one_of_each_family",
    "save_backbone",
    "tiny_backbones",
]

WORDS = "vqa : ? what color is it red green blue yes no maybe a thing of other".split()
# With smaller initial weights, states would hardly depend on the input.
SMALL, FACTOR = 0.05, 8.0


@dataclass(frozen=True, kw_only=True)
class TinyTokenizer:
    """Tokenizer of the kind that a family has.

    Args:
        special: Special tokens by their role, such as `pad_token`, in the order of their ids.
        template: What a text becomes, such as `<s> $A </s>`.
    """

    special: Mapping[str, str]
    template: str

    def save(self, folder: Path, vocabulary: int) -> None:
        """Write a tokenizer whose ids fill the vocabulary, special tokens and `WORDS` first."""
        known = [*self.special.values(), *WORDS]
        known += [f"word{number}" for number in range(len(known), vocabulary)]
        ids = {token: number for number, token in enumerate(known)}
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token=self.special["unk_token"]))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        used = [(token, ids[token]) for token in self.template.split() if token != "$A"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=self.template, special_tokens=used
        )
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **self.special).save_pretrained(folder)


@dataclass(frozen=True, kw_only=True)
class TinyBackbone:
    """A stock Hugging Face model with random weights.

    Args:
        build: Function that returns the model: two or three blocks per stack, at least 30 tokens,
            heads, widths and depths that differ from each other, linear layers with a multiple of
            64 weights, even widths.
        tokenizer: Its tokenizer.
        language: Function that returns the language model in it; by default, the model itself.
        has_decoder: Whether it can generate text.
        family: Its family if that is not in the package.
    """

    build: Callable[[], PreTrainedModel]
    tokenizer: TinyTokenizer
    language: Callable[[Any], Any] = lambda model: model
    has_decoder: bool = True
    family: Family | None = None


def tiny_backbones() -> dict[str, TinyBackbone]:
    """Return the backbones of all families by name, that of the guide included."""
    family = guide_family()
    found = {name: replace(tiny, family=family) for name, tiny in guide_backbones().items()}
    for path in sorted((Path(__file__).parent / "families").glob("tiny_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found.update(module.BACKBONES)
    return found


@cache
def one_of_each_family() -> tuple[str, ...]:
    """Return the name of the first tiny backbone of each family, that of the guide included."""
    first: dict[Family, str] = {}
    for name, tiny in tiny_backbones().items():
        family = tiny.family or find_family(tiny.build().config.model_type)
        first.setdefault(family, name)
    return tuple(first.values())


def build_stock(tiny: TinyBackbone, seed: int = 0) -> Any:
    """Return the stock model, in evaluation mode, with random biases and norms too."""
    torch.manual_seed(seed)
    model = tiny.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
            elif parameter.std() < SMALL:
                parameter *= FACTOR
    return model


def save_backbone(tiny: TinyBackbone, folder: Path, seed: int = 0) -> Any:
    """Write the model and its tokenizer to a folder for `load_backbone`; return the model."""
    model = build_stock(tiny, seed)
    model.save_pretrained(folder)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tiny.tokenizer.save(folder, vocabulary)
    return model
