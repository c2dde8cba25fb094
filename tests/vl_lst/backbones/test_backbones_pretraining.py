"""Pretraining objectives hide what they should, and lose nothing of the text."""

from random import Random
from typing import Any

import pytest
from tiny_backbones import tiny_backbones

from vl_lst.backbones.families import find_family
from vl_lst.backbones.pretraining import (
    PrefixLanguageModelling,
    SpanCorruption,
    TextInfilling,
)
from vl_lst.backbones.tokenizer import CachingTokenizer
from vl_lst.errors import ModelError

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


def test_every_family_with_a_decoder_of_the_package_has_an_objective() -> None:
    """Encoders are loaded without the output layer of their pretraining."""
    for name, tiny in tiny_backbones().items():
        if tiny.family is None:
            family = find_family(tiny.build().config.model_type)
            assert (family.pretraining is not None) == family.has_decoder, name
