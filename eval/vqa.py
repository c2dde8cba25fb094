"""VQA v2 accuracy exactly as the official evaluator computes it, quirks included.

The rules are those of `vqaEval.py` in GT-Vision-Lab/VQA (commit a013f00) under CPython 2.7, the
version it was written for:

* Nothing is normalised, not even case, if all human answers to a question are identical.
* Punctuation is processed by looking at the original text: with one comma between digits, every
  mark in the answer is removed instead of replaced by a space. At most 32 periods are removed, and
  only those not followed by a digit.
* Each human answer is left out in turn, together with all answer objects *equal* to it. Objects
  with distinct `answer_id` are never equal; without IDs, ten identical answers leave none to agree.
* Digits are ASCII digits, `lower()` maps letter by letter, and `round()` rounds ties away from
  zero.

Two details of Python 2.7 are not reproduced: letters that got a lower case after Unicode 5.2
(Cherokee, Georgian Mtavruli, rare Latin) stay unchanged there, and U+180E separates words.

Unlike the official code, these functions do not modify their input, so annotations can be scored
again.
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
    "MIN_AGREEING",
    "VqaScores",
    "answer_weights",
    "normalise_answer",
    "process_digits_and_articles",
    "process_punctuation",
    "score_vqa",
    "vqa_accuracy",
    "vqa_metrics",
]

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA_BETWEEN_DIGITS = re.compile("[0-9],[0-9]")
PERIOD_WITHOUT_DIGIT_AFTER = re.compile(r"\.(?![0-9])")
# The official call passes the flag re.UNICODE (32) as the argument `count`.
MAX_REMOVED_PERIODS = 32
NUMBER_WORDS = "zero one two three four five six seven eight nine ten".split()
DIGITS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})
MIN_AGREEING = 3


@dataclass(frozen=True, slots=True)
class VqaScores:
    """VQA's metrics, in percent, rounded as by the official script.

    Args:
        accuracy: Mean over all questions ("overall").
        per_question_type: Mean over the questions with the same beginning ("what color is the").
        per_answer_type: Mean over the questions with "yes/no", "number" and "other" answers.
        per_question: Accuracy of each question, by question ID.
        lenient_accuracy: Accuracy if answers were always normalised, as in many
            re-implementations. If it is much higher than `accuracy`, answers lose points for their
            formatting.
    """

    accuracy: float
    per_question_type: Mapping[str, float]
    per_answer_type: Mapping[str, float]
    per_question: Mapping[int, float]
    lenient_accuracy: float


def process_punctuation(text: str) -> str:
    """Remove punctuation or replace it by spaces, as the official `processPunctuation` does."""
    comma_between_digits = COMMA_BETWEEN_DIGITS.search(text) is not None
    out = text
    for mark in PUNCTUATION:
        if mark in text:
            removed = comma_between_digits or f"{mark} " in text or f" {mark}" in text
            out = out.replace(mark, "" if removed else " ")
    return PERIOD_WITHOUT_DIGIT_AFTER.sub("", out, count=MAX_REMOVED_PERIODS)


def process_digits_and_articles(text: str) -> str:
    """Lowercase, convert number words to digits, drop articles, and restore contractions."""
    words = (DIGITS.get(word, word) for word in _lower(text).split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(maxsize=1 << 18)
def normalise_answer(text: str) -> str:
    """Return the text in the form that the official evaluator compares if human answers differ."""
    return process_digits_and_articles(process_punctuation(text))


def vqa_accuracy(answer: str, human_answers: Sequence[str | Mapping[str, Any]]) -> float:
    """Return the official accuracy, in [0, 1], of one answer.

    Args:
        answer: The predicted answer.
        human_answers: The human answers: official answer objects, which are compared as a whole,
            or strings, each of a different person.

    Raises:
        ValueError: There is no human answer.
    """
    return _HumanAnswers(_answer_objects(human_answers)).accuracy_of(answer)


def vqa_metrics(
    predictions: Mapping[str, str],
    human_answers: Mapping[str, Sequence[str | Mapping[str, Any]]],
) -> dict[str, float]:
    """Return the official metrics of a set of questions, in percent, rounded to two decimals.

    Args:
        predictions: {question ID: answer}.
        human_answers: {question ID: human answers}, in a form that `vqa_accuracy` accepts. IDs may
            have any type, but the same as those of the predictions.

    Returns:
        `accuracy` and `lenient_accuracy`; see `VqaScores`.

    Raises:
        PredictionError: Predictions are missing or belong to other questions.
        ValueError: There are no questions, or a question has no human answers.
    """
    annotations = [
        {
            "question_id": id_,
            "question_type": "",
            "answer_type": "",
            "answers": _answer_objects(answers),
        }
        for id_, answers in human_answers.items()
    ]
    scores = score_vqa(predictions, annotations)
    return {"accuracy": scores.accuracy, "lenient_accuracy": scores.lenient_accuracy}


def _answer_objects(answers: Sequence[str | Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return human answers as official objects; texts are answers of different people."""
    return [
        {"answer": answer, "answer_id": number} if isinstance(answer, str) else answer
        for number, answer in enumerate(answers)
    ]


def answer_weights(answers: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Return the answers that score, each with its official accuracy.

    Args:
        answers: The official answer objects of one question.

    Returns:
        Distinct answers in descending frequency, normalised if the official evaluator does so.
        Answers with an accuracy of 0 are left out.

    Raises:
        ValueError: There is no human answer.
    """
    humans = _HumanAnswers(answers)
    candidates = [text for text, _ in Counter(humans.compared).most_common()]
    weights = [(text, humans.accuracy_of(text)) for text in candidates]
    return [(text, weight) for text, weight in weights if weight > 0]


def score_vqa(
    predictions: Mapping[Any, str],
    annotations: Sequence[Mapping[str, Any]],
    *,
    decimals: int = 2,
) -> VqaScores:
    """Score predictions against official annotations.

    Args:
        predictions: {question ID: answer}.
        annotations: The objects of the official file, with `question_id`, `question_type`,
            `answer_type` and `answers`. They are not modified.
        decimals: Number of decimals of each percentage. Default: 2, as in the official script.

    Raises:
        PredictionError: Predictions are missing or belong to other questions.
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
        humans = _HumanAnswers(annotation["answers"])
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


class _HumanAnswers:
    """The human answers to one question, in the form that predictions are compared with."""

    __slots__ = ("_left_out", "compared", "unanimous")

    def __init__(self, answers: Sequence[Mapping[str, Any]]) -> None:
        if not answers:
            raise ValueError("expected at least one human answer")
        tidied = [_tidy(answer["answer"]) for answer in answers]
        self.unanimous = len(set(tidied)) == 1
        self.compared = tidied if self.unanimous else [normalise_answer(text) for text in tidied]
        self._left_out = _positions_left_out(answers, self.compared)

    def accuracy_of(self, answer: str) -> float:
        tidied = _tidy(answer)
        return self._agreement(tidied if self.unanimous else normalise_answer(tidied))

    def lenient_accuracy_of(self, answer: str) -> float:
        """Return the accuracy if unanimous answers were normalised like all others."""
        same = normalise_answer(_tidy(answer)) == normalise_answer(self.compared[0])
        return self._agreement(self.compared[0]) if same else 0.0

    def _agreement(self, answer: str) -> float:
        hits = tuple([text == answer for text in self.compared])
        if self._left_out is None:
            return _leave_one_out(hits)
        total = sum(hits)
        return _mean_capped(total - sum(hits[other] for other in group) for group in self._left_out)


def _positions_left_out(
    answers: Sequence[Mapping[str, Any]], compared: Sequence[str]
) -> list[list[int]] | None:
    """Return the positions of the objects equal to each answer; `None` if all are distinct."""
    try:
        if len({answer.get("answer_id") for answer in answers}) == len(answers):
            return None
    except TypeError:  # IDs that are lists or objects can only be compared one by one.
        pass
    # The official code normalises the answers in place before it compares the objects.
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
    capped = [min(1.0, count / MIN_AGREEING) for count in agreeing]
    return _plain_sum(capped) / len(capped)


def _plain_sum(values: Iterable[float]) -> float:
    """Return the plain sum from left to right; `sum` compensates errors since Python 3.12."""
    return reduce(operator.add, values, 0.0)


@lru_cache(maxsize=1 << 18)
def _tidy(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _lower(text: str) -> str:
    """Lowercase letter by letter, as Python 2.7 does: no final sigma, one letter per letter."""
    if text.isascii():
        return text.lower()
    return "".join([letter.lower()[0] for letter in text])


class _Rounded(dict[float, float]):
    """A cache of numbers rounded with ties away from zero."""

    def __init__(self, decimals: int) -> None:
        super().__init__()
        self._step = Decimal(1).scaleb(-decimals)

    def __missing__(self, value: float) -> float:
        self[value] = float(Decimal(value).quantize(self._step, rounding=ROUND_HALF_UP))
        return self[value]

    def mean(self, accuracies: Sequence[float]) -> float:
        return self[100 * _plain_sum(accuracies) / len(accuracies)]
