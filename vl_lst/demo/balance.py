"""Choosing questions so that their texts alone do not give their answers away."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from random import Random
from typing import Protocol, TypeVar

__all__ = ["Askable", "choose_balanced", "pick_weighted"]


class Askable(Protocol):
    """What choosing has to know of a question."""

    @property
    def kind(self) -> str:
        """What it asks for; answers are balanced within a kind."""
        ...

    @property
    def subject(self) -> str:
        """What it is about; no picture is asked twice about one subject in the same kind."""
        ...

    @property
    def answer(self) -> str:
        """The right answer."""
        ...


AnyQuestion = TypeVar("AnyQuestion", bound=Askable)


def choose_balanced(
    pictures: Iterable[list[AnyQuestion]],
    *,
    per_picture: int,
    kind_weights: Mapping[str, float],
    rng: Random,
) -> list[list[AnyQuestion]]:
    """Choose questions so that within a kind of question no answer leads by much.

    Pictures are taken in order. Each question is the candidate whose answer has been given least
    often so far, within the wording's subject where the answer is yes or no: "is there a circle"
    is answered yes as often as no, so the text alone gives nothing away.

    Args:
        pictures: The questions each picture has an answer to; gone through once.
        per_picture: At most so many questions are chosen for each.
        kind_weights: How often each kind is asked, where it can be.
        rng: Decides between candidates that are equally good.
    """
    tallies: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    chosen = []
    for candidates in pictures:
        asked: list[AnyQuestion] = []
        while candidates and len(asked) < per_picture:
            kind = pick_weighted(kind_weights, {question.kind for question in candidates}, rng)
            best = min(
                (question for question in candidates if question.kind == kind),
                key=lambda question: (_lead(question, tallies), rng.random()),
            )
            asked.append(best)
            for key in _keys(best):
                tallies[key][best.answer] += 1
            candidates = [
                question
                for question in candidates
                if (question.kind, question.subject) != (best.kind, best.subject)
            ]
        chosen.append(asked)
    return chosen


def pick_weighted(weights: Mapping[str, float], among: Collection[str], rng: Random) -> str:
    """Choose one of the keys of `weights` that are `among` some, each as often as it weighs."""
    weighted = [(kind, weight) for kind, weight in weights.items() if kind in among]
    at = rng.random() * sum(weight for _, weight in weighted)
    for kind, weight in weighted:
        at -= weight
        if at < 0:
            return kind
    return weighted[-1][0]


def _keys(question: Askable) -> tuple[tuple[str, str], ...]:
    return (question.kind, ""), (question.kind, question.subject)


def _lead(question: Askable, tallies: Mapping[tuple[str, str], Counter[str]]) -> float:
    """By how much the question's answer is ahead of the average of its rivals."""
    lead = 0.0
    for key in _keys(question):
        tally = tallies[key]
        lead += tally[question.answer] - tally.total() / max(2, len(tally))
    return lead
