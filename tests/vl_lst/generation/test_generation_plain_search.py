"""The search equals a plain one that has no caches, no batches and no tensors of beams."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from vl_lst.generation import finished_rows, search
from vl_lst.generation.answer_tree import AnswerTree
from vl_lst.generation.finished_rows import FinishedRows
from vl_lst.generation.search import beam_search, generate, greedy_search
from vl_lst.models.batch import Batch

MAX_LENGTH = 8
Answers = Sequence[tuple[int, ...]] | None


def next_scores(model: Any, batch: Batch, ids: tuple[int, ...], answers: Answers) -> list[float]:
    """Return the log-probability of every token after some tokens of the only example."""
    states = model.decode(model.encode(batch), torch.tensor([ids]), None, None)
    scores: list[float] = model.logits(states)[0, -1].log_softmax(-1).tolist()
    if answers is None:
        return scores
    done = len(ids)
    allowed = {
        each[done - 1] for each in answers if each[: done - 1] == ids[1:] and done <= len(each)
    }
    return [score if token in allowed else -math.inf for token, score in enumerate(scores)]


def plain_beam_search(
    model: Any, batch: Batch, beams: int, answers: Answers
) -> tuple[list[int], float]:
    """Return the best answer to the only example, and its score, as transformers 4.2.1 does."""
    ends = model.backbone.end_token_ids
    start: tuple[int, ...] = (model.backbone.start_token_id,)
    alive = [(start, 0.0)] + [(start, -1e9)] * (beams - 1)
    finished: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, MAX_LENGTH):
        candidates = sorted(
            (
                (total + score, ids, token)
                for ids, total in alive
                for token, score in enumerate(next_scores(model, batch, ids, answers))
            ),
            key=lambda candidate: -candidate[0],
        )[: 2 * beams]
        alive = []
        for rank, (total, ids, token) in enumerate(candidates):
            if token not in ends:
                alive.append(((*ids, token), total))
            elif rank < beams:
                finished.append((total / length, (*ids, model.backbone.eos_token_id)))
        alive = alive[:beams]
        finished = sorted(finished, key=lambda each: -each[0])[:beams]
        if len(finished) == beams and finished[-1][0] >= candidates[0][0] / length:
            break
    else:
        finished += [(total / MAX_LENGTH, ids) for ids, total in alive]
    score, best = max(finished, key=lambda each: each[0])
    return list(best), score


@pytest.fixture
def batch(make_batch: Callable[..., Batch]) -> Batch:
    return make_batch(rows=6)


def alone(batch: Batch, row: int) -> Batch:
    """Return a batch of one example."""
    assert batch.features_BINF is not None
    return Batch(
        features_BINF=batch.features_BINF[row : row + 1],
        prompt_ids_UT=batch.prompt_ids_UT,
        prompt_index_B=batch.prompt_index_B[row : row + 1],
    )


def end_some_early(model: Any, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a token end answers that is generated at different places."""
    ids = greedy_search(model, batch, max_length=MAX_LENGTH)
    tokens, counts = ids[:, 2:].unique(return_counts=True)
    monkeypatch.setattr(model.backbone.config, "eos_token_id", int(tokens[counts.argmax()]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("beams", [1, 2, 4])
@torch.no_grad()
def test_beams_are_those_of_a_plain_search(
    make_model: Callable[..., Any],
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    beams: int,
) -> None:
    model = make_model(seed=seed)
    end_some_early(model, batch, monkeypatch)
    ids_BL, scores_B = beam_search(model, batch, max_length=MAX_LENGTH, beams=beams)
    for row in range(len(batch)):
        expected, score = plain_beam_search(model, alone(batch, row), beams, None)
        assert ids_BL[row, : len(expected)].tolist() == expected
        assert not ids_BL[row, len(expected) :].any()
        assert float(scores_B[row]) == pytest.approx(score, abs=1e-5)


class LateRows(FinishedRows):
    """Rows that are dropped one step after they have finished, as on CUDA."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.delay = 1


class LateFlags:
    """Flags of a step, read after the next."""

    def __init__(self, flags_N: torch.Tensor) -> None:
        self.rows: Sequence[int] = range(len(flags_N))
        self._flags = flags_N.tolist()

    def read(self) -> list[bool]:
        return [self._flags[row] for row in self.rows]


@pytest.mark.parametrize("beams", [1, 3])
def test_rows_that_are_dropped_late_change_no_answer(
    make_model: Callable[..., Any],
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
    beams: int,
) -> None:
    for seed in range(6):
        model = make_model(seed=seed)
        with monkeypatch.context() as patch:
            end_some_early(model, batch, patch)
            expected = generate(model, batch, max_length=MAX_LENGTH, beams=beams)
            patch.setattr(search, "FinishedRows", LateRows)
            patch.setattr(finished_rows, "_Flags", LateFlags)
            assert torch.equal(generate(model, batch, max_length=MAX_LENGTH, beams=beams), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("beams", [1, 3])
def test_on_cuda_the_device_waits_for_the_host_no_more_often_for_more_tokens(
    make_model: Callable[..., Any],
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    beams: int,
) -> None:
    model = make_model(seed=1)
    end_some_early(model, batch, monkeypatch)
    expected = generate(model, batch, max_length=MAX_LENGTH, beams=beams)
    model, moved = model.cuda(), batch.to("cuda")
    assert torch.equal(generate(model, moved, max_length=MAX_LENGTH, beams=beams).cpu(), expected)
    monkeypatch.setattr(model.backbone.config, "eos_token_id", -1)
    waits = []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        for length in (MAX_LENGTH, 2 * MAX_LENGTH):
            recwarn.clear()
            warnings.simplefilter("always")
            generate(model, moved, max_length=length, beams=beams)
            waits.append(sum("synchronizing" in str(each.message) for each in recwarn))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waits[0] == waits[1]


@torch.no_grad()
def test_beams_within_an_answer_list_are_those_of_a_plain_search(
    make_model: Callable[..., Any], batch: Batch
) -> None:
    """Also with fewer answers than beams, some of which then repeat others."""
    model = make_model(seed=2)
    for answers in ([(9, 1), (9, 12, 1), (20, 21, 22, 1)], [(9, 1)]):
        tree = AnswerTree(answers, vocabulary=64, device=torch.device("cpu"))
        ids_BL, scores_B = beam_search(model, batch, max_length=MAX_LENGTH, beams=4, answers=tree)
        for row in range(len(batch)):
            expected, score = plain_beam_search(model, alone(batch, row), 4, answers)
            assert ids_BL[row, : len(expected)].tolist() == expected
            assert float(scores_B[row]) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_finished_examples_cost_nothing(
    make_model: Callable[..., Any],
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
    beams: int,
) -> None:
    """The decoder reads fewer rows as soon as some have ended."""
    model = make_model(seed=1)
    end_some_early(model, batch, monkeypatch)
    rows: list[int] = []
    decode = model.backbone.decode

    def counting(ids_PL: torch.Tensor, *given: Any, **named: Any) -> Any:
        rows.append(len(ids_PL))
        return decode(ids_PL, *given, **named)

    monkeypatch.setattr(model.backbone, "decode", counting)
    if beams == 1:
        ids_BL = greedy_search(model, batch, max_length=MAX_LENGTH)
        eos = model.backbone.eos_token_id
        lengths = [row.index(eos) if eos in row else MAX_LENGTH - 1 for row in ids_BL.tolist()]
        assert rows == [sum(length > place for length in lengths) for place in range(max(lengths))]
    else:
        beam_search(model, batch, max_length=MAX_LENGTH, beams=beams)
        # The beams of an example are equal at first, so one is read.
        assert rows[:2] == [len(batch), len(batch) * beams]
    assert rows == [rows[0], *sorted(rows[1:], reverse=True)]
    assert rows[-1] < rows[1]


def test_the_attention_of_the_backbone_is_its_own_again(
    make_model: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    model = make_model()
    decoder = model.backbone.model.get_decoder()
    before = decoder.config._attn_implementation
    with model.backbone.decoding():
        assert decoder.config._attn_implementation != before
        beam_search(model, make_batch(), max_length=4, beams=2)
    assert decoder.config._attn_implementation == before
    empty = replace(make_batch(), features_BINF=torch.zeros(4, 1, 9, 3))
    with pytest.raises(Exception, match="mat1|shape|size"):
        beam_search(model, empty, max_length=4, beams=2)
    assert decoder.config._attn_implementation == before
