"""Pretraining objectives hide what they should, and lose nothing of the text."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from tiny_backbones import one_of_each_family, tiny_backbones

from vl_lst.backbones.backbone import IGNORED
from vl_lst.backbones.families import find_family
from vl_lst.backbones.pretraining import (
    PrefixLanguageModelling,
    SpanCorruption,
    TextInfilling,
)
from vl_lst.backbones.tokenizer import CachingTokenizer, pad_rows
from vl_lst.errors import ModelError
from vl_lst.models.batch import Batch
from vl_lst.models.untrained import UntrainedModel

END, MASK, FIRST_SENTINEL = 1, 2, 1000


class WordTokenizer:
    """Stock tokenizer of numbers, with sentinels and a mask, or without."""

    pad_token_id, eos_token_id, unk_token_id = 0, END, 3

    def __init__(self, *, is_complete: bool = True) -> None:
        self.mask_token = "<mask>" if is_complete else None
        sentinels = {f"<extra_id_{n}>": FIRST_SENTINEL + n for n in range(100)}
        self._vocabulary = {"<mask>": MASK, **sentinels} if is_complete else {}

    def get_vocab(self) -> dict[str, int]:
        return self._vocabulary

    def __call__(self, text: str, **_: Any) -> Any:
        class Encoded:
            input_ids = [10 + place for place, _ in enumerate(text.split())]

        return Encoded


TOKENIZER = CachingTokenizer(WordTokenizer())


@pytest.mark.parametrize("length", [1, 2, 7, 100, 384])
def test_spans_are_told_by_their_sentinels(length: int) -> None:
    ids = list(range(10, 10 + length))
    source, target = SpanCorruption().corrupt(ids, TOKENIZER, Random(length))
    hidden: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token >= FIRST_SENTINEL:
            hidden[token] = []
        else:
            hidden[next(reversed(hidden))].append(token)
    assert [t for token in source[:-1] for t in hidden.get(token, [token])] == ids
    assert sum(map(len, hidden.values())) == max(1, round(0.15 * length))
    assert source[-1] == target[-1] == END


@pytest.mark.parametrize("length", [1, 7, 300])
def test_masks_stand_for_a_part_of_the_text_that_is_predicted_whole(length: int) -> None:
    ids = list(range(10, 10 + length))
    source, target = TextInfilling().corrupt(ids, TOKENIZER, Random(length))
    assert target == [*ids, END]
    shown = [token for token in source[:-1] if token != MASK]
    assert shown == sorted(set(shown) & set(ids)), "in order, each once"
    assert len(ids) - len(shown) == max(1, round(0.3 * length))
    assert MASK in source


def test_the_second_half_follows_the_first() -> None:
    pair = PrefixLanguageModelling().corrupt([10, 11, 12], TOKENIZER, Random(0))
    assert pair == ([10, END], [11, 12, END])
    assert PrefixLanguageModelling().corrupt([10], TOKENIZER, Random(0)) is None


@pytest.mark.parametrize("objective", [SpanCorruption(), TextInfilling()])
def test_the_seed_alone_decides_what_is_hidden(objective: Any) -> None:
    ids = list(range(10, 200))
    one, same, other = (objective.corrupt(ids, TOKENIZER, Random(seed)) for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    ("objective", "token"), [(SpanCorruption(), "<extra_id_0>"), (TextInfilling(), "a mask token")]
)
def test_a_tokenizer_without_the_tokens_is_refused(objective: Any, token: str) -> None:
    bare = CachingTokenizer(WordTokenizer(is_complete=False))
    with pytest.raises(ModelError, match=f"the tokenizer lacks {token}"):
        objective.corrupt([10, 11, 12], bare, Random(0))


class TinyIds(CachingTokenizer):
    """Tokenizer of a tiny backbone, some of whose words stand for sentinels and masks."""

    mask_token = "mask"

    def token_id(self, token: str) -> int:
        return 5 + len(token) + (int(token[10:-1]) if "extra_id" in token else 0) % 10


def families_with_objective() -> list[str]:
    tiny = tiny_backbones()
    found = [(name, tiny[name]) for name in one_of_each_family()]
    return [name for name, each in found if each.has_decoder and each.family is None]


@pytest.mark.parametrize("name", families_with_objective())
def test_losses_are_those_of_the_stock_model(make_tiny: Callable[..., Any], name: str) -> None:
    """Of every family that has an objective, padded in a batch and not."""
    backbone = make_tiny(name)
    objective = backbone.family.pretraining
    stock = WordTokenizer()
    stock.pad_token_id, stock.eos_token_id = backbone.pad_token_id, backbone.eos_token_id
    tokenizer = TinyIds(
        stock,
        start_token_id=backbone.start_token_id,
        forced_bos_token_id=backbone.forced_bos_token_id,
    )
    ids = [list(range(6, 6 + length)) for length in (5, 9, 20)]
    pairs = [objective.corrupt(each, tokenizer, Random(0)) for each in ids]
    total = 0.0
    with torch.no_grad():
        for source, target in pairs:
            output = backbone.model(input_ids=torch.tensor([source]), labels=torch.tensor([target]))
            total += float(output.loss) * len(target)
        model = UntrainedModel(backbone.model, family=backbone.family, tasks=())
        batch = Batch(
            prompt_ids_UT=pad_rows([each for each, _ in pairs], padding=backbone.pad_token_id),
            prompt_index_B=torch.arange(3),
            labels_BL=pad_rows([each for _, each in pairs], padding=IGNORED),
        )
        assert float(model.token_losses(batch).sum()) == pytest.approx(total, rel=1e-4)


def test_every_family_with_a_decoder_of_the_package_has_an_objective() -> None:
    """Encoders are loaded without the output layer of their pretraining."""
    for name, tiny in tiny_backbones().items():
        if tiny.family is None:
            family = find_family(tiny.build().config.model_type)
            assert (family.pretraining is not None) == family.has_decoder, name
