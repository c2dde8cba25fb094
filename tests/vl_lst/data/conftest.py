"""The tokenizer of the tiny world."""

import pytest
from tiny_run import TinyWorld
from transformers import AutoTokenizer

from vl_lst.backbones.tokenizer import CachingTokenizer


@pytest.fixture(scope="module")
def tokenizer(world: TinyWorld) -> CachingTokenizer:
    return CachingTokenizer(AutoTokenizer.from_pretrained(str(world.backbone)))
