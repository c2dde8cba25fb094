"""Cached search equals search without caches."""

from dataclasses import replace

import pytest
import torch

from vl_lst.generation.answer_tree import AnswerTree
from vl_lst.generation.search import beam_search, generate, greedy_search


def uncached_log_probabilities(model, batch, ids_BL: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities [B, L, V] of the next token after each prefix."""
    rows = torch.arange(len(batch))
    states = model.decode(model.encode(batch), ids_BL, rows, rows)
    return model.logits(states).log_softmax(-1)


@pytest.mark.parametrize("gated", [False, True], ids=["v1.0", "v1.1"])
def test_greedy_search_takes_the_most_likely_token(make_model, make_batch, gated) -> None:
    model, batch = make_model(gated=gated), make_batch()
    ids = greedy_search(model, batch, max_length=8)
    best = uncached_log_probabilities(model, batch, ids).argmax(-1)
    for row in range(len(batch)):
        for position in range(1, ids.shape[1]):
            assert ids[row, position] == best[row, position - 1]
            if ids[row, position] == model.backbone.eos_token_id:
                assert not ids[row, position + 1 :].any()
                break


def test_finished_examples_do_not_affect_others(make_model, make_batch, monkeypatch) -> None:
    """Each example gets the answer it gets alone."""
    model, batch = make_model(), make_batch()
    free = greedy_search(model, batch, max_length=10)
    monkeypatch.setattr(model.backbone.config, "eos_token_id", int(free[0, 3]))
    together = greedy_search(model, batch, max_length=10)
    for row in range(len(batch)):
        alone = replace(
            batch,
            features_BINF=batch.features_BINF[row : row + 1],
            prompt_index_B=batch.prompt_index_B[row : row + 1],
        )
        ids = greedy_search(model, alone, max_length=10)[0]
        assert torch.equal(together[row, : len(ids)], ids)


@pytest.mark.parametrize("end", [1, None])
def test_beam_scores_are_mean_log_probabilities(make_model, make_batch, monkeypatch, end) -> None:
    model, batch = make_model(seed=3), make_batch()
    if end is None:
        likely = int(greedy_search(model, batch, max_length=6)[0, 2])
        monkeypatch.setattr(model.backbone.config, "eos_token_id", likely)
    ids, scores = beam_search(model, batch, max_length=6, beams=3)
    eos = model.backbone.eos_token_id
    logs = uncached_log_probabilities(model, batch, ids)
    for row in range(len(batch)):
        answer = ids[row].tolist()
        ended = eos in answer[1:]
        length = answer.index(eos, 1) if ended else len(answer)
        tokens = answer[1 : length + ended]
        total = sum(logs[row, position, token] for position, token in enumerate(tokens))
        torch.testing.assert_close(scores[row], total / length, rtol=1e-4, atol=1e-4)


def test_more_beams_never_find_a_worse_answer(make_model, make_batch) -> None:
    model, batch = make_model(seed=5), make_batch()
    _, one = beam_search(model, batch, max_length=6, beams=1)
    _, five = beam_search(model, batch, max_length=6, beams=5)
    assert bool((five >= one - 1e-5).all())


def test_generate_selects_the_search_by_the_number_of_beams(make_model, make_batch) -> None:
    model, batch = make_model(), make_batch()
    greedy = generate(model, batch, max_length=6)
    assert torch.equal(greedy, greedy_search(model, batch, max_length=6))
    beams = generate(model, batch, max_length=6, beams=2)
    assert torch.equal(beams, beam_search(model, batch, max_length=6, beams=2)[0])


def test_a_forced_first_token_begins_every_answer(make_model, make_batch) -> None:
    """It is certain, so it does not count towards the score of an answer."""
    model, batch = make_model(seed=3), make_batch()
    free = greedy_search(model, batch, max_length=6)
    forced = next(token for token in range(2, 64) if token not in free[:, 1])
    model.backbone.model.generation_config.forced_bos_token_id = forced
    greedy = greedy_search(model, batch, max_length=6)
    ids, scores = beam_search(model, batch, max_length=6, beams=3)
    assert set(greedy[:, 1].tolist()) == set(ids[:, 1].tolist()) == {forced}
    best = uncached_log_probabilities(model, batch, greedy).argmax(-1)
    assert torch.equal(greedy[:, 2], best[:, 1])
    logs = uncached_log_probabilities(model, batch, ids)
    for row, answer in enumerate(ids.tolist()):
        length = answer.index(1, 1) if 1 in answer[1:] else len(answer)
        ended = length < len(answer)
        tokens = list(enumerate(answer[1 : length + ended]))[1:]
        total = sum(logs[row, position, token] for position, token in tokens)
        torch.testing.assert_close(scores[row], total / length, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_the_answers_of_a_tree_replace_a_forced_token(make_model, make_batch, beams) -> None:
    model, batch = make_model(seed=3), make_batch()
    model.backbone.model.generation_config.forced_bos_token_id = 7
    answers = [(7, 20, 1), (7, 21, 22, 1)]
    tree = AnswerTree(answers, vocabulary=64, device=torch.device("cpu"))
    ids = generate(model, batch, max_length=6, beams=beams, answers=tree)
    for row in ids.tolist():
        assert tuple(token for token in row[1:] if token) in answers
