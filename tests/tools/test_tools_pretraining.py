"""Pretraining data are deterministic, and the output folders load with stock loaders."""

from functools import partial
from random import Random

import numpy as np

from tools import pretrain_clip, pretrain_t5
from tools._pretraining import Schedule, ordered_batches
from tools.shapes_texts import held_out_text
from vl_lst.bundled import PRETRAINING_TEXT
from vl_lst.demo.questions import ANSWERS
from vl_lst.demo.scenes import Purpose

FIRST_SENTINEL = 999


def test_clip_batches_do_not_depend_on_the_number_of_workers() -> None:
    make = partial(
        pretrain_clip.make_batch, purpose=Purpose.PRETRAIN_CLIP_HELD_OUT, batch_size=8, seed=0
    )
    here = list(ordered_batches(make, count=2, workers=0))
    there = list(ordered_batches(make, count=2, workers=1))
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one.captions, other.captions)
        assert all(np.array_equal(a, b) for a, b in zip(one.pictures, other.pictures, strict=True))


def test_caption_ids_end_with_the_highest_id() -> None:
    """open_clip's text tower pools the state at the highest id."""
    ids = pretrain_clip.caption_ids("a red circle, a blue square and a teal star")
    assert len(ids) == pretrain_clip.CONTEXT_LENGTH
    assert max(ids) == pretrain_clip.END == ids[10]


def test_the_tokenizer_encodes_any_text_and_answers_as_one_token() -> None:
    tokenizer = pretrain_t5.build_tokenizer(0)
    for answer in ANSWERS:
        assert len(tokenizer.encode(answer).ids) == 2
    text = "is the étagère 猫 <behind> the {photograph} №5?"
    ids = tokenizer.encode(text).ids
    assert pretrain_t5.UNKNOWN not in ids
    assert ids[-1] == pretrain_t5.END
    assert tokenizer.decode(ids) == text.replace("№", "no")
    assert tokenizer.token_to_id("<extra_id_0>") == tokenizer.get_vocab_size() - 1


def test_corrupted_lines_can_be_restored() -> None:
    for seed in range(200):
        ids = list(range(10, 10 + 1 + seed % 40))
        source, target = pretrain_t5.corrupt(ids, Random(seed), first_sentinel=FIRST_SENTINEL)
        hidden: dict[int, list[int]] = {}
        for token in target[:-1]:
            if token > FIRST_SENTINEL - 100:
                hidden[token] = []
            else:
                hidden[next(reversed(hidden))].append(token)
        whole = [t for token in source[:-1] for t in hidden.get(token, [token])]
        assert whole == ids
        assert source[-1] == target[-1] == pretrain_t5.END


def test_the_bundled_text_is_what_the_tool_writes() -> None:
    assert PRETRAINING_TEXT.read_text(encoding="utf-8") == held_out_text()


def test_the_learning_rate_rises_falls_and_ends() -> None:
    schedule = Schedule(peak=1.0, steps=100, minutes=None)
    rates = [schedule.learning_rate(step) for step in range(101)]
    assert rates[-1] is None
    numbers = [rate for rate in rates if rate is not None]
    assert len(numbers) == 100
    assert max(numbers) == max(numbers[4:8])
    assert numbers[-1] < 0.01
