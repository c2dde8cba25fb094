"""Choose questions whose text alone does not give the answer away."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from random import Random
from typing import Protocol, TypeVar

__all__ = ["Askable", "choose_balanced", "pick_weighted"]


class Askable(Protocol):
    """The properties of a question that balancing needs."""

    @property
    def kind(self) -> str:
        """Question type; answers are balanced within each kind."""
        ...

    @property
    def subject(self) -> str:
        """Topic; a picture gets at most one question per kind and subject."""
        ...

    @property
    def answer(self) -> str:
        """Correct answer."""
        ...


AnyQuestion = TypeVar("AnyQuestion", bound=Askable)


def choose_balanced(
    pictures: Iterable[list[AnyQuestion]],
    *,
    per_picture: int,
    kind_weights: Mapping[str, float],
    rng: Random,
) -> list[list[AnyQuestion]]:
    """Choose questions so that answers are balanced within each kind of question.

    Pictures are processed in order. Each step picks the candidate whose answer is least frequent
    so far, counted both within its kind and within its kind and subject. "Is there a circle?", for
    example, is answered yes as often as no, so the text alone does not predict the answer.

    Args:
        pictures: Candidate questions per picture; iterated once.
        per_picture: Maximum number of questions per picture.
        kind_weights: Relative frequency of each kind, among the kinds a picture offers.
        rng: Breaks ties between equally good candidates.

    Returns:
        The chosen questions per picture, in order.
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
    """Draw one of the keys of `weights` that are in `among`, with probability by weight."""
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
    """Return how far the count of the question's answer exceeds the average answer's."""
    lead = 0.0
    for key in _keys(question):
        tally = tallies[key]
        lead += tally[question.answer] - tally.total() / max(2, len(tally))
    return lead
