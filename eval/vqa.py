"""VQA v2 accuracy exactly as the official evaluator computes it, quirks included.

The rules are those of `vqaEval.py` in GT-Vision-Lab/VQA (commit a013f00) run by CPython 2.7, the
Python it was written for:

* Nothing is normalised, not even case, when all human answers of a question are the same text.
* Punctuation is judged on the original text, so one comma between digits turns every mark of that
  answer from "a space" into "nothing"; at most 32 full stops are removed, and only those that no
  digit follows.
* Each human answer is left out in turn together with every answer object *equal* to it. Objects
  with distinct `answer_id` never are; without ids, ten agreeing people leave nobody to agree with.
* Digits are ASCII digits; `lower()` maps letter by letter; `round()` sends ties away from zero.

Not reproduced from Python 2.7: that letters which got a lower case after Unicode 5.2 (Cherokee,
Georgian Mtavruli, rare Latin) stay as they are, and that U+180E separates words.

Unlike the official code nothing here changes its input, so annotations can be scored twice.
"""

import operator
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache, reduce
from typing import Any

from eval._vqa_contractions import CONTRACTIONS
from eval.submissions import require_predictions, require_same_ids

__all__ = [
    "VqaScores",
    "answer_weights",
    "normalise_answer",
    "process_digits_and_articles",
    "process_punctuation",
    "score_vqa",
    "vqa_accuracy",
]

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA_BETWEEN_DIGITS = re.compile("[0-9],[0-9]")
PERIOD_WITHOUT_DIGIT_AFTER = re.compile(r"\.(?![0-9])")
# The official call passes the flag re.UNICODE where `sub` takes a count.
MOST_PERIODS_REMOVED = 32
NUMBER_WORDS = "zero one two three four five six seven eight nine ten".split()
DIGITS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})
ENOUGH_AGREEING = 3


@dataclass(frozen=True, slots=True)
class VqaScores:
    """Percentages rounded as the official script rounds them.

    Args:
        accuracy: Mean over all questions ("overall").
        per_question_type: Mean over the questions that begin alike ("what color is the").
        per_answer_type: Mean over "yes/no", "number" and "other".
        per_question: Accuracy of each question, keyed by question id.
        lenient_accuracy: What always normalising would give. Many re-implementations report this;
            far from `accuracy` it says that answers lose points for their form alone.
    """

    accuracy: float
    per_question_type: Mapping[str, float]
    per_answer_type: Mapping[str, float]
    per_question: Mapping[int, float]
    lenient_accuracy: float


def process_punctuation(text: str) -> str:
    """Remove punctuation or replace it by spaces, as `processPunctuation` does."""
    comma_between_digits = COMMA_BETWEEN_DIGITS.search(text) is not None
    out = text
    for mark in PUNCTUATION:
        if mark in text:
            removed = comma_between_digits or f"{mark} " in text or f" {mark}" in text
            out = out.replace(mark, "" if removed else " ")
    return PERIOD_WITHOUT_DIGIT_AFTER.sub("", out, count=MOST_PERIODS_REMOVED)


def process_digits_and_articles(text: str) -> str:
    """Lower the case, write small numbers as digits, drop articles, mend contractions."""
    words = (DIGITS.get(word, word) for word in _lower(text).split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(maxsize=1 << 18)
def normalise_answer(text: str) -> str:
    """Return the text as the official evaluator compares it when the humans disagree."""
    return process_digits_and_articles(process_punctuation(text))


def vqa_accuracy(answer: str, human_answers: Sequence[str | Mapping[str, Any]]) -> float:
    """Return the official accuracy, in [0, 1], of one answer.

    Args:
        answer: The predicted answer.
        human_answers: What people said: the official answer objects, compared whole, or plain
            texts, each counted as another person's.

    Raises:
        ValueError: There is no human answer.
    """
    objects = [
        {"answer": human, "answer_id": number} if isinstance(human, str) else human
        for number, human in enumerate(human_answers)
    ]
    return _Humans(objects).accuracy_of(answer)


def answer_weights(answers: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Return the answers worth predicting and the official accuracy each would get.

    Args:
        answers: The official answer objects of one question.

    Returns:
        Distinct answers, normalised where the official evaluator would, the most frequent first;
        answers that score nothing are left out.

    Raises:
        ValueError: There is no human answer.
    """
    humans = _Humans(answers)
    candidates = [text for text, _ in Counter(humans.compared).most_common()]
    weights = [(text, humans.accuracy_of(text)) for text in candidates]
    return [(text, weight) for text, weight in weights if weight > 0]


def score_vqa(
    predictions: Mapping[int, str],
    annotations: Sequence[Mapping[str, Any]],
    *,
    decimals: int = 2,
) -> VqaScores:
    """Score predictions against official annotations.

    Args:
        predictions: {question id: answer}.
        annotations: The objects of the official file, with `question_id`, `question_type`,
            `answer_type` and `answers`. They are not changed.
        decimals: Digits after the point of each percentage, 2 in the official script.

    Raises:
        PredictionError: Predictions are missing or there are some for other questions.
        ValueError: There are no annotations, or a question has no human answers.
    """
    require_predictions(predictions, text_ids=False)
    require_same_ids([annotation["question_id"] for annotation in annotations], predictions)
    if not annotations:
        raise ValueError("there are no annotations to score against")
    overall: list[float] = []
    lenient: list[float] = []
    by_question_type: defaultdict[str, list[float]] = defaultdict(list)
    by_answer_type: defaultdict[str, list[float]] = defaultdict(list)
    per_question: dict[int, float] = {}
    rounded = _Rounded(decimals)
    for annotation in annotations:
        answer = predictions[annotation["question_id"]]
        humans = _Humans(annotation["answers"])
        accuracy = humans.accuracy_of(answer)
        overall.append(accuracy)
        lenient.append(humans.lenient_accuracy_of(answer) if humans.unanimous else accuracy)
        by_question_type[annotation["question_type"]].append(accuracy)
        by_answer_type[annotation["answer_type"]].append(accuracy)
        per_question[annotation["question_id"]] = rounded[100 * accuracy]
    return VqaScores(
        accuracy=rounded.mean(overall),
        per_question_type={name: rounded.mean(each) for name, each in by_question_type.items()},
        per_answer_type={name: rounded.mean(each) for name, each in by_answer_type.items()},
        per_question=per_question,
        lenient_accuracy=rounded.mean(lenient),
    )


class _Humans:
    """The human answers of one question, in the form predictions are compared with."""

    __slots__ = ("_alike", "compared", "unanimous")

    def __init__(self, answers: Sequence[Mapping[str, Any]]) -> None:
        if not answers:
            raise ValueError("accuracy needs at least one human answer")
        tidied = [_tidy(answer["answer"]) for answer in answers]
        self.unanimous = len(set(tidied)) == 1
        self.compared = tidied if self.unanimous else [normalise_answer(text) for text in tidied]
        self._alike = _positions_left_out(answers, self.compared)

    def accuracy_of(self, answer: str) -> float:
        tidied = _tidy(answer)
        return self._agreement(tidied if self.unanimous else normalise_answer(tidied))

    def lenient_accuracy_of(self, answer: str) -> float:
        """Accuracy if unanimous answers were normalised like all others."""
        same = normalise_answer(_tidy(answer)) == normalise_answer(self.compared[0])
        return self._agreement(self.compared[0]) if same else 0.0

    def _agreement(self, answer: str) -> float:
        hits = tuple([text == answer for text in self.compared])
        if self._alike is None:
            return _leave_one_out(hits)
        total = sum(hits)
        return _mean_capped(total - sum(hits[other] for other in group) for group in self._alike)


def _positions_left_out(
    answers: Sequence[Mapping[str, Any]], compared: Sequence[str]
) -> list[list[int]] | None:
    """For each answer, the positions of the objects equal to it; `None` if all are distinct."""
    try:
        if len({answer.get("answer_id") for answer in answers}) == len(answers):
            return None
    except TypeError:  # An id that is a list or an object still compares, but slowly.
        pass
    # The official code writes normalised answers back before it compares the objects.
    objects = [{**answer, "answer": text} for answer, text in zip(answers, compared, strict=True)]
    return [
        [position for position, other in enumerate(objects) if other == left_out]
        for left_out in objects
    ]


@lru_cache(maxsize=1 << 14)
def _leave_one_out(hits: tuple[bool, ...]) -> float:
    total = sum(hits)
    return _mean_capped(total - hit for hit in hits)


def _mean_capped(agreeing: Iterable[int]) -> float:
    capped = [min(1.0, count / ENOUGH_AGREEING) for count in agreeing]
    return _plain_sum(capped) / len(capped)


def _plain_sum(values: Iterable[float]) -> float:
    """Sum from left to right; `sum` compensates rounding errors since Python 3.12."""
    return reduce(operator.add, values, 0.0)


@lru_cache(maxsize=1 << 18)
def _tidy(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _lower(text: str) -> str:
    """Lower the case letter by letter, as Python 2.7 did: no final sigma, one letter for one."""
    if text.isascii():
        return text.lower()
    return "".join([letter.lower()[0] for letter in text])


class _Rounded(dict[float, float]):
    """Numbers rounded with ties away from zero, each computed once."""

    def __init__(self, decimals: int) -> None:
        super().__init__()
        self._step = Decimal(1).scaleb(-decimals)

    def __missing__(self, value: float) -> float:
        self[value] = float(Decimal(value).quantize(self._step, rounding=ROUND_HALF_UP))
        return self[value]

    def mean(self, accuracies: Sequence[float]) -> float:
        return self[100 * _plain_sum(accuracies) / len(accuracies)]
