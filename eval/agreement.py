"""VQA's accuracy for questions with fewer or more than ten human answers.

The official rule leaves out each of ten people in turn and checks whether three of the others gave
the same answer (see `eval.vqa`). With a single human answer it would always give 0. If there are
not ten answers, the share of people therefore replaces their number: k of n people count as
10 k / n of ten. With ten people the two rules agree.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from eval.vqa import MIN_AGREEING, answer_weights, normalise_answer, vqa_accuracy

__all__ = ["OFFICIAL_PEOPLE", "agreement", "agreement_weights"]

OFFICIAL_PEOPLE = 10


def agreement(answer: str, human_answers: Sequence[str]) -> float:
    """Return the accuracy, in [0, 1], of one answer.

    With ten human answers this is the official accuracy. Otherwise answers are compared after
    normalisation (case, articles, punctuation and the like).

    Args:
        answer: The predicted answer.
        human_answers: The answer of each person.

    Raises:
        ValueError: There is no human answer.
    """
    if len(human_answers) == OFFICIAL_PEOPLE:
        return vqa_accuracy(answer, human_answers)
    return _shares(human_answers).get(_comparable(answer), 0.0)


def agreement_weights(human_answers: Sequence[str]) -> list[tuple[str, float]]:
    """Return the answers that score, each with its accuracy.

    Args:
        human_answers: The answer of each person.

    Raises:
        ValueError: There is no human answer.
    """
    if len(human_answers) == OFFICIAL_PEOPLE:
        people = [{"answer": text, "answer_id": n} for n, text in enumerate(human_answers, 1)]
        return answer_weights(people)
    return list(_shares(human_answers).items())


def _shares(human_answers: Sequence[str]) -> Mapping[str, float]:
    if not human_answers:
        raise ValueError("expected at least one human answer")
    counts = Counter(map(_comparable, human_answers))
    return {
        text: _accuracy_of_share(count / len(human_answers)) for text, count in counts.most_common()
    }


def _accuracy_of_share(share: float) -> float:
    agreeing = OFFICIAL_PEOPLE * share
    left_out, others = min(1.0, (agreeing - 1) / MIN_AGREEING), agreeing / MIN_AGREEING
    return max(0.0, share * left_out + (1 - share) * min(1.0, others))


def _comparable(text: str) -> str:
    # The official rules normalise "a" to an empty string, although it may be the whole answer.
    return normalise_answer(text) or text.strip().lower()
