"""Batches for a backbone that reads images: equal (images, prompt) pairs are computed once."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_run import TinyWorld
from torch import Tensor

from tasks import Example, get_task
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.loading import load_backbone
from vl_lst.backbones.tokenizer import CachingTokenizer
from vl_lst.data.batches import Batches, prompt_fields
from vl_lst.data.targets import SampledAnswers
from vl_lst.errors import ModelError
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig, LadderConfig
from vl_lst.models.ladder.model import LadderModel

TOKENS, WIDTH = 3, 16
RED, COLOUR = "vqa : is it red ?", "vqa : what color is it ?"


class OwnFeatures:
    """Tokens of images as their backbone's image encoder would compute them."""

    def read(self, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Return random features that depend on the id."""
        return np.stack(
            [
                np.random.default_rng(ord(image_id)).normal(size=(TOKENS, WIDTH))
                for image_id in image_ids
            ]
        ).astype(np.float16)


def batch_of(
    tokenizer: CachingTokenizer, rows: Sequence[tuple[Sequence[str], str, str]], task: str = "vqa"
) -> Batch:
    """Return a batch of (images, prompt, answer)."""
    examples = [
        Example(id=str(place), image_ids=tuple(images), prompt=prompt, targets=((answer, 1.0),))
        for place, (images, prompt, answer) in enumerate(rows)
    ]
    batches = Batches(
        get_task(task),
        examples,  # type: ignore[arg-type]
        OwnFeatures(),
        tokenizer,
        SampledAnswers(tokenizer, max_tokens=5, seed=0),
        backbone_reads_images=True,
    )
    return batches[[(0, row) for row in range(len(rows))]]


def test_pairs_of_images_and_prompt_are_merged(tokenizer: CachingTokenizer) -> None:
    batch = batch_of(
        tokenizer,
        [
            ("a", RED, "yes"),
            ("b", RED, "no"),
            ("a", RED, "no"),
            ("a", COLOUR, "red"),
            ("b", RED, "no"),
        ],
    )
    assert batch.prompt_index_B.tolist() == [0, 1, 0, 2, 1]
    assert batch.prompt_rows_U is not None
    assert batch.prompt_rows_U.tolist() == [0, 1, 3]
    assert len(batch.prompt_ids_UT) == 3
    # An answer is shared by examples with the same images, prompt and answer.
    assert batch.pair_index_B is not None
    assert batch.pair_index_B.tolist() == [0, 1, 2, 3, 1]


def test_the_order_of_two_images_matters(tokenizer: CachingTokenizer) -> None:
    statement = "nlvr : it is red"
    batch = batch_of(
        tokenizer,
        [("ab", statement, "yes"), ("ba", statement, "no"), ("ab", statement, "yes")],
        task="nlvr2",
    )
    assert batch.prompt_index_B.tolist() == [0, 1, 0]
    assert batch.features_BINF.shape == (3, 2, TOKENS, WIDTH)


def test_without_images_prompts_are_merged_as_before(tokenizer: CachingTokenizer) -> None:
    fields = prompt_fields([RED, COLOUR, RED], tokenizer, max_tokens=20)
    assert set(fields) == {"prompt_ids_UT", "prompt_index_B"}
    assert fields["prompt_index_B"].tolist() == [0, 1, 0]


@pytest.fixture(scope="module")
def backbone(reader_world: TinyWorld) -> FrozenBackbone:
    return load_backbone(reader_world.backbone).backbone


def ladder(backbone: FrozenBackbone) -> LadderModel:
    torch.manual_seed(0)
    return LadderModel(
        backbone,
        visual=None,
        ladder=LadderConfig(reduction=2, dropout=0.0),
        head=HeadConfig(kind="generate"),
    ).eval()


def test_the_encoder_runs_once_per_pair(
    tokenizer: CachingTokenizer, backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(
        tokenizer,
        [("a", RED, "yes"), ("b", RED, "no"), ("a", RED, "no"), ("a", COLOUR, "red")],
    )
    model, rows = ladder(backbone), []
    run = FrozenBackbone.run_encoder

    def counted(self: FrozenBackbone, embedding_UTD: Tensor, mask_UT: Tensor) -> Tensor:
        rows.append(embedding_UTD.shape[:2])
        return run(self, embedding_UTD, mask_UT)

    monkeypatch.setattr(FrozenBackbone, "run_encoder", counted)
    with torch.no_grad():
        shared = model.token_losses(batch)
        assert rows == [(3, TOKENS + batch.prompt_ids_UT.shape[1])]
        alone = model.token_losses(batch.unshare())
    assert [len(each) for each in rows] == [2, 2]
    assert rows[1][0] == 4
    torch.testing.assert_close(shared, alone)


def test_all_images_come_before_the_text_in_their_order(
    tokenizer: CachingTokenizer, backbone: FrozenBackbone
) -> None:
    batch = batch_of(tokenizer, [("ab", RED, "yes"), ("ba", RED, "no")], task="nlvr2")
    embedding_BSD, mask_BS = backbone.encoder_input(batch.prompt_ids_UT, batch.features_BINF)
    images = torch.from_numpy(OwnFeatures().read(["a", "b"])).float()
    assert torch.equal(embedding_BSD[0, : 2 * TOKENS], images.flatten(0, 1))
    assert torch.equal(embedding_BSD[1, : 2 * TOKENS], images.flip(0).flatten(0, 1))
    assert torch.equal(embedding_BSD[:, 2 * TOKENS :], backbone.embed(batch.prompt_ids_UT))
    assert mask_BS[:, : 2 * TOKENS].all()


def test_a_batch_without_rows_of_images_is_refused(
    tokenizer: CachingTokenizer, backbone: FrozenBackbone
) -> None:
    batch = replace(batch_of(tokenizer, [("a", RED, "yes")]), prompt_rows_U=None)
    with pytest.raises(ModelError, match="does not tell which image belongs to which prompt"):
        ladder(backbone).encode(batch)
