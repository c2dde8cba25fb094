"""The answer vocabulary of a classification head: given by a file, or counted from the examples."""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from eval.errors import FileFormatError, InputError
from eval.files import read_json
from tasks._task import Example

__all__ = [
    "MIN_ANSWER_COUNT",
    "answer_coverage",
    "build_answer_list",
    "coverage_text",
    "load_answer_list",
]

# What LXMERT's list of 3,129 VQA answers was built with.
MIN_ANSWER_COUNT = 9


def build_answer_list(examples: Iterable[Example], min_count: int = MIN_ANSWER_COUNT) -> list[str]:
    """Return the answers that occur often enough, the most frequent first, then by text.

    An example counts for the first of its heaviest targets, as the usual VQA list counts the
    answer most people gave.

    Args:
        examples: The training examples.
        min_count: How many examples must have the answer; that of the usual VQA list by default,
            `Task.min_answer_count` holds each task's own.

    Raises:
        InputError: No answer occurs that often.
    """
    counts = Counter(
        max(example.targets, key=lambda target: target[1])[0]
        for example in examples
        if example.targets
    )
    frequent = [answer for answer, count in counts.items() if count >= min_count]
    if not frequent:
        raise InputError(
            f"no answer occurs at least {min_count} times among {counts.total():,} answered "
            "examples, so there is no answer list; lower the minimum count (data.min_answer_count "
            "of a recipe, --min-count of `vl-lst data prepare`), or generate answers "
            "(--head generate)"
        )
    return sorted(frequent, key=lambda answer: (-counts[answer], answer))


def answer_coverage(examples: Iterable[Example], answers: Iterable[str]) -> float | None:
    """Return the percentage of answered examples one of whose heaviest targets is on a list.

    `None` where no example has an answer.
    """
    listed = set(answers)
    answered = covered = 0
    for example in examples:
        if not example.targets:
            continue
        heaviest = max(weight for _, weight in example.targets)
        answered += 1
        covered += any(answer in listed for answer, weight in example.targets if weight == heaviest)
    return 100 * covered / answered if answered else None


def coverage_text(percent: float) -> str:
    """Format a percentage, rounded down so that 100.0 means all."""
    return f"{math.floor(10 * percent) / 10:.1f} %"


def load_answer_list(path: str | Path) -> list[str]:
    """Read a `label2ans` file: a JSON list of distinct strings, one of which may be empty.

    Raises:
        FileFormatError: The file holds something else.
    """
    expected = "the list of answers (label2ans)"
    answers = read_json(Path(path), expected=expected)
    if (
        not isinstance(answers, list)
        or not answers
        or not all(isinstance(answer, str) for answer in answers)
    ):
        raise FileFormatError(f"{path}: not a list of strings; expected {expected}")
    repeated = [answer for answer, count in Counter(answers).items() if count > 1]
    if repeated:
        raise FileFormatError(
            f"{path}: {len(repeated):,} answers occur more than once, such as {repeated[0]!r}; "
            "a label must stand for one answer"
        )
    return answers
