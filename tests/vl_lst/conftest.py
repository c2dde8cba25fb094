"""Small random models, cheap enough to build for every test."""

from collections.abc import Callable

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.models.batch import Batch, unique_rows
from vl_lst.models.config import HeadConfig, LadderConfig, VisualConfig
from vl_lst.models.ladder.model import LadderModel

VOCABULARY = 64
CHANNELS = 8
ANSWERS = 5


def small_backbone(*, gated: bool = False, seed: int = 0) -> FrozenBackbone:
    """Return a random T5 (v1.1 if `gated`) with encoder and decoder of different depths."""
    torch.manual_seed(seed)
    config = T5Config(
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=3,
        num_decoder_layers=2,
        num_heads=4,
        vocab_size=VOCABULARY,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated,
        decoder_start_token_id=0,
    )
    return FrozenBackbone(T5ForConditionalGeneration(config))


def small_model(
    head: str = "generate", *, gated: bool = False, seed: int = 0, **ladder: object
) -> LadderModel:
    """Return a ladder with a small random backbone."""
    backbone = small_backbone(gated=gated, seed=seed)
    options = {"reduction": 4, "dropout": 0.0, **ladder}
    model = LadderModel(
        backbone,
        visual=VisualConfig(channels=CHANNELS, tokens=9, pooled_grid=2),
        ladder=LadderConfig(**options),  # type: ignore[arg-type]
        head=HeadConfig(kind=head, answers=ANSWERS if head == "classify" else 0),  # type: ignore[arg-type]
    )
    return model.eval()


def small_batch(rows: int = 4, *, images: int = 1, seed: int = 1) -> Batch:
    """Return a batch in which two examples share a prompt and texts differ in length."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(2, VOCABULARY, (rows, 6), generator=generator)
    prompts[1] = prompts[0]
    prompts[-1, 4:] = 0
    labels = torch.randint(2, VOCABULARY, (rows, 3), generator=generator)
    labels[1] = labels[0]
    labels[-1, 2:] = -100
    first, prompt_index = unique_rows(prompts)
    pair_rows, pair_index = unique_rows(torch.cat((prompts, labels), 1))
    return Batch(
        features_BINF=torch.randn(rows, images, 9, CHANNELS, generator=generator),
        prompt_ids_UT=prompts[first],
        prompt_index_B=prompt_index,
        labels_BL=labels,
        pair_rows_P=pair_rows,
        pair_index_B=pair_index,
        weights_B=torch.rand(rows, generator=generator),
        scores_BA=torch.rand(rows, ANSWERS, generator=generator),
    )


@pytest.fixture
def make_model() -> Callable[..., LadderModel]:
    return small_model


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    return small_batch


@pytest.fixture
def make_backbone() -> Callable[..., FrozenBackbone]:
    return small_backbone
