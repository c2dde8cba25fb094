"""Search that is constrained to an answer list finds the best answer on it."""

import pytest
import torch

from vl_lst.generation.answer_tree import AnswerTree
from vl_lst.generation.search import generate

EOS = 1
ANSWERS = [(5, EOS), (5, 9, EOS), (5, 9, 7, EOS), (12, EOS), (EOS,)]
VOCABULARY = 64


def tree() -> AnswerTree:
    return AnswerTree(ANSWERS, vocabulary=VOCABULARY, device=torch.device("cpu"))


def allowed_tokens(answers: AnswerTree, prefix: tuple[int, ...]) -> set[int]:
    nodes = answers.start(2)
    for token in prefix:
        nodes = answers.follow(nodes, torch.tensor([token, token]))
    rows = answers.mask_scores(torch.zeros(2, VOCABULARY), nodes)
    assert torch.equal(rows[0], rows[1])
    return set(torch.nonzero(rows[0] == 0)[:, 0].tolist())


def test_tokens_allowed_after_a_prefix() -> None:
    answers = tree()
    assert allowed_tokens(answers, ()) == {5, 12, EOS}
    assert allowed_tokens(answers, (5,)) == {EOS, 9}
    assert allowed_tokens(answers, (5, 9)) == {EOS, 7}
    assert allowed_tokens(answers, (12,)) == {EOS}
    assert allowed_tokens(answers, (12, EOS)) == set(), "the answer has ended"
    assert allowed_tokens(answers, (13,)) == set(), "no answer has this prefix"
    assert allowed_tokens(answers, (13, 5)) == set()


def test_rows_at_different_nodes_have_different_constraints() -> None:
    answers = tree()
    nodes = answers.follow(answers.start(3), torch.tensor([12, 5, 63]))
    scores = answers.mask_scores(torch.arange(3.0)[:, None].repeat(1, VOCABULARY), nodes)
    assert torch.nonzero(scores.isfinite()).tolist() == [[0, EOS], [1, EOS], [1, 9]]
    assert scores[1, 9] == 1


@pytest.mark.parametrize("beams", [1, 2, 5])
def test_only_listed_answers_are_generated(make_model, make_batch, beams: int) -> None:
    model, batch = make_model(seed=3), make_batch(rows=6)
    ids = generate(model, batch, max_length=5, beams=beams, answers=tree())
    for row in ids[:, 1:].tolist():
        end = row.index(EOS)
        assert tuple(row[: end + 1]) in ANSWERS
        assert not any(row[end + 1 :])


def test_enough_beams_find_the_best_answer(make_model, make_batch) -> None:
    """Scores are those of beam search: the end counts in the sum but not in the length."""
    model, batch = make_model(seed=4), make_batch()
    rows = torch.arange(len(batch))
    scores = []
    for answer in ANSWERS:
        labels = torch.tensor([answer]).expand(len(batch), -1)
        ids = model.backbone.shift_right(labels)
        logs = model.logits(model.decode(model.encode(batch), ids, rows, rows)).log_softmax(-1)
        scores.append(logs.gather(2, labels[:, :, None]).sum((1, 2)) / len(answer))
    best = torch.stack(scores).argmax(0)
    found = generate(model, batch, max_length=5, beams=5, answers=tree())
    for row, place in zip(found[:, 1:].tolist(), best.tolist(), strict=True):
        assert tuple(row[: row.index(EOS) + 1]) == ANSWERS[place]
