"""Configurations by name have the sizes of the published models."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from vl_lst.backbones.t5_sizes import t5_names
from vl_lst.errors import ModelError
from vl_lst.profiling.t5_models import backbone_config, random_backbone

# From the checkpoints' own index files and model cards.
PUBLISHED = {
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "google/t5-v1_1-small": 76_961_152,
    "google/t5-v1_1-base": 247_577_856,
    "google/t5-v1_1-large": 783_150_080,
    "google/t5-v1_1-xl": 2_849_757_184,
    "google/flan-t5-small": 76_961_152,
    "google/flan-t5-base": 247_577_856,
    "google/flan-t5-large": 783_150_080,
    "google/flan-t5-xl": 2_849_757_184,
}


def test_every_size_has_the_published_number_of_parameters() -> None:
    assert set(t5_names()) == set(PUBLISHED)
    for name, count in PUBLISHED.items():
        with torch.device("meta"):
            model = random_backbone(backbone_config(name))
        assert sum(parameter.numel() for parameter in model.parameters()) == count, name


def test_the_vocabulary_size_can_be_set() -> None:
    assert backbone_config("t5-base", vocabulary=32_200).vocab_size == 32_200
    assert backbone_config("t5-base").vocab_size == 32_128
    assert backbone_config("demo").vocab_size == 666


def test_models_other_than_t5_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no configuration of a backbone .*t5-small, t5-base"):
        backbone_config(str(tmp_path / "absent"))
    with pytest.raises(ModelError, match="no backbone 't5-bsae'; did you mean t5-base"):
        backbone_config("t5-bsae")
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a bert: expected a T5"):
        backbone_config(str(tmp_path))
