"""A search that is held to a list of answers finds the best of them and nothing else."""

import pytest
import torch

from vl_lst.generation.answer_tree import AnswerTree
from vl_lst.generation.search import generate

EOS = 1
ANSWERS = [(5, EOS), (5, 9, EOS), (5, 9, 7, EOS), (12, EOS), (EOS,)]
VOCABULARY = 64


def tree() -> AnswerTree:
    return AnswerTree(ANSWERS, vocabulary=VOCABULARY, device=torch.device("cpu"))


def allowed(made: AnswerTree, beginning: tuple[int, ...]) -> set[int]:
    nodes = made.start(2)
    for token in beginning:
        nodes = made.follow(nodes, torch.tensor([token, token]))
    rows = made.forbid(torch.zeros(2, VOCABULARY), nodes)
    assert torch.equal(rows[0], rows[1])
    return set(torch.nonzero(rows[0] == 0)[:, 0].tolist())


def test_what_may_follow_a_beginning() -> None:
    made = tree()
    assert allowed(made, ()) == {5, 12, EOS}
    assert allowed(made, (5,)) == {EOS, 9}
    assert allowed(made, (5, 9)) == {EOS, 7}
    assert allowed(made, (12,)) == {EOS}
    assert allowed(made, (12, EOS)) == set(), "an answer has ended"
    assert allowed(made, (13,)) == set(), "no answer begins so"
    assert allowed(made, (13, 5)) == set()


def test_rows_at_different_nodes_are_told_apart() -> None:
    made = tree()
    nodes = made.follow(made.start(3), torch.tensor([12, 5, 63]))
    scores = made.forbid(torch.arange(3.0)[:, None].repeat(1, VOCABULARY), nodes)
    assert torch.nonzero(scores.isfinite()).tolist() == [[0, EOS], [1, EOS], [1, 9]]
    assert scores[1, 9] == 1


@pytest.mark.parametrize("beams", [1, 2, 5])
def test_nothing_but_the_listed_answers_is_generated(make_model, make_batch, beams: int) -> None:
    model, batch = make_model(seed=3), make_batch(rows=6)
    ids = generate(model, batch, max_length=5, beams=beams, answers=tree())
    for row in ids[:, 1:].tolist():
        end = row.index(EOS)
        assert tuple(row[: end + 1]) in ANSWERS
        assert not any(row[end + 1 :])


def test_enough_beams_find_the_best_of_all_answers(make_model, make_batch) -> None:
    """Its score is that of beam search: the mean over the tokens, the end's place not counted."""
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
