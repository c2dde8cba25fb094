"""Configurations by name have the sizes of the published models."""

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config

from feature_extraction.errors import EncoderError
from vl_lst.backbones.families.t5 import HAS_CAUSAL_UMT5
from vl_lst.backbones.published import PUBLISHED
from vl_lst.backbones.random_weights import backbone_config, random_backbone
from vl_lst.errors import ModelError

T5GEMMA = {
    "s-s": 312_517_632,
    "b-b": 591_490_560,
    "l-l": 1_241_761_792,
    "xl-xl": 3_766_980_608,
    "2b-2b": 5_596_853_760,
    "9b-2b": 12_292_375_296,
    "9b-9b": 20_333_401_088,
}

# From the checkpoints' own index files and model cards.
PARAMETERS = {
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "google/t5-v1_1-small": 76_961_152,
    "google/t5-v1_1-base": 247_577_856,
    "google/t5-v1_1-large": 783_150_080,
    "google/t5-v1_1-xl": 2_849_757_184,
    "google/t5-v1_1-xxl": 11_135_332_352,
    "google/flan-t5-small": 76_961_152,
    "google/flan-t5-base": 247_577_856,
    "google/flan-t5-large": 783_150_080,
    "google/flan-t5-xl": 2_849_757_184,
    "google/flan-t5-xxl": 11_135_332_352,
    # The language models of BLIP-2 are the Flan-T5 of the same size.
    "Salesforce/blip2-flan-t5-xl": 2_849_757_184,
    "Salesforce/blip2-flan-t5-xxl": 11_135_332_352,
    "google/mt5-small": 300_176_768,
    "google/mt5-base": 582_401_280,
    "google/mt5-large": 1_229_581_312,
    "google/mt5-xl": 3_742_619_648,
    "google/umt5-small": 306_601_984,
    "google/umt5-base": 592_043_520,
    "google/umt5-xl": 3_768_356_864,
    "google/byt5-small": 299_637_760,
    "google/byt5-base": 581_653_248,
    "google/byt5-large": 1_228_183_552,
    "facebook/bart-base": 139_420_416,
    "facebook/bart-large": 406_291_456,
    "facebook/mbart-large-50": 610_879_488,
    **{f"google/t5gemma-{pair}-ul2": count for pair, count in T5GEMMA.items()},
    **{f"google/t5gemma-{pair}-ul2-it": count for pair, count in T5GEMMA.items()},
    # Without the image encoder and its projection; the model card says 370M, 1.7B and 7B.
    "google/t5gemma-2-270m-270m": 368_424_832,
    "google/t5gemma-2-1b-1b": 1_697_783_168,
    "google/t5gemma-2-4b-4b": 7_089_112_576,
}
# Those of encoders include a pooler, a linear layer of the model's width, which is not loaded.
WITH_POOLER = {
    "bert-base-uncased": (109_482_240, 768),
    "bert-base-cased": (108_310_272, 768),
    "bert-large-uncased": (335_141_888, 1024),
    "bert-large-cased": (333_579_264, 1024),
    "bert-base-multilingual-cased": (177_853_440, 768),
    "roberta-base": (124_645_632, 768),
    "roberta-large": (355_359_744, 1024),
    "xlm-roberta-base": (278_043_648, 768),
    "xlm-roberta-large": (559_890_432, 1024),
    "microsoft/MiniLM-L12-H384-uncased": (33_360_000, 384),
    "sentence-transformers/all-MiniLM-L6-v2": (22_713_216, 384),
    "sentence-transformers/all-MiniLM-L12-v2": (33_360_000, 384),
}
PARAMETERS |= {
    # These have no pooler, and here none of the heads of pretraining.
    "distilbert-base-uncased": 66_362_880,
    "distilbert-base-cased": 65_190_912,
    "google/electra-base-discriminator": 108_891_648,
    "google/electra-large-discriminator": 334_092_288,
    "microsoft/deberta-v3-base": 183_831_552,
    "microsoft/deberta-v3-large": 434_012_160,
    **{name: count - width * (width + 1) for name, (count, width) in WITH_POOLER.items()},
}


def test_every_size_has_the_published_number_of_parameters() -> None:
    assert set(PUBLISHED) == set(PARAMETERS)
    for name, count in PARAMETERS.items():
        if "umt5" in name and not HAS_CAUSAL_UMT5:
            continue
        with torch.device("meta"):
            model = random_backbone(*backbone_config(name))
        assert sum(parameter.numel() for parameter in model.parameters()) == count, name


def test_the_vocabulary_size_can_be_set() -> None:
    assert backbone_config("t5-base", vocabulary=32_200)[0].vocab_size == 32_200
    assert backbone_config("t5-base")[0].vocab_size == 32_128
    assert backbone_config("demo")[0].vocab_size == 666


def test_unknown_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no configuration of a backbone .*t5-small, t5-base"):
        backbone_config(str(tmp_path / "absent"))
    with pytest.raises(ModelError, match="no backbone 't5-bsae'; did you mean t5-base"):
        backbone_config("t5-bsae")
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="gpt2, a decoder without an encoder; expected an enc"):
        backbone_config(str(tmp_path))


def test_names_that_are_only_similar_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub has models of other sizes and languages, under similar names."""

    def refuse(name: str, files: tuple[str, ...]) -> Path:
        raise EncoderError(f"asked for {name}")

    monkeypatch.setattr("vl_lst.backbones.random_weights.backbone_folder", refuse)
    for name in ("microsoft/deberta-v3-small", "bert-base-multilingual-uncased"):
        with pytest.raises(ModelError, match=f"asked for {name}"):
            backbone_config(name)
