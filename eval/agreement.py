"""VQA's accuracy for questions that fewer, or more, than ten people answered.

The official rule leaves each of ten people out in turn and asks whether three of the others said
the same (see `eval.vqa`). Its number for a question with a single answer is always 0, so where
there are not ten answers the share of people who gave an answer takes the place of their number:
k of n people count as 10 k / n of ten. With ten people the two rules agree.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from eval.vqa import answer_weights, normalise_answer, vqa_accuracy

__all__ = ["OFFICIAL_PEOPLE", "agreement", "agreement_weights"]

OFFICIAL_PEOPLE = 10
ENOUGH_AGREEING = 3


def agreement(answer: str, human_answers: Sequence[str]) -> float:
    """Return the accuracy, in [0, 1], of one answer: the official one where ten people answered.

    Elsewhere answers are compared without regard to case, articles, punctuation and the like.

    Args:
        answer: The predicted answer.
        human_answers: What each person said.

    Raises:
        ValueError: There is no human answer.
    """
    if len(human_answers) == OFFICIAL_PEOPLE:
        return vqa_accuracy(answer, human_answers)
    return _shares(human_answers).get(_compared(answer), 0.0)


def agreement_weights(human_answers: Sequence[str]) -> list[tuple[str, float]]:
    """Return the answers worth predicting and the accuracy each would get.

    Args:
        human_answers: What each person said.

    Raises:
        ValueError: There is no human answer.
    """
    if len(human_answers) == OFFICIAL_PEOPLE:
        people = [{"answer": text, "answer_id": n} for n, text in enumerate(human_answers, 1)]
        return answer_weights(people)
    return list(_shares(human_answers).items())


def _shares(human_answers: Sequence[str]) -> Mapping[str, float]:
    if not human_answers:
        raise ValueError("a question needs a human answer")
    counts = Counter(map(_compared, human_answers))
    return {
        text: _accuracy_of_share(count / len(human_answers)) for text, count in counts.most_common()
    }


def _accuracy_of_share(share: float) -> float:
    agreeing = OFFICIAL_PEOPLE * share
    left_out, others = min(1.0, (agreeing - 1) / ENOUGH_AGREEING), agreeing / ENOUGH_AGREEING
    return max(0.0, share * left_out + (1 - share) * min(1.0, others))


def _compared(text: str) -> str:
    # The official rules turn "a" into nothing, which here could be all there is to say.
    return normalise_answer(text) or text.strip().lower()
