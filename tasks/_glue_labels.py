"""Labels of GLUE's files, the texts that models learn for them, and the words of the test server.

Models answer with digits: the number of the class, as text. For sentence similarity they answer
with a number of one decimal.
"""

import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from eval.glue import read_number

__all__ = ["BINARY", "Classes", "Labels", "Similarity", "is_decimal"]

DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")
MAX_SIMILARITY = 5.0


def is_decimal(text: str, low: float, high: float) -> bool:
    """Return whether a text is a number from `low` to `high` in decimal digits, such as 3.25.

    It may have a minus sign only if `low` is negative.
    """
    digits = text.removeprefix("-") if low < 0 else text
    return DECIMAL.fullmatch(digits) is not None and low <= float(text) <= high


class Labels(Protocol):
    """What the labels of a task are."""

    @property
    def described(self) -> str:
        """The labels that a file may contain, for messages."""
        ...

    @property
    def answers(self) -> str:
        """The answers that a model may give, for messages."""
        ...

    @property
    def placeholder(self) -> str:
        """The answer that stands for a missing or an invalid one in a submission."""
        ...

    def target(self, label: str) -> str | None:
        """Return the text that a model learns for a label of a file; `None` if it is not one."""
        ...

    def official(self, label: str) -> str:
        """Return the text that official scores compare predictions with."""
        ...

    def is_valid(self, answer: str) -> bool:
        """Return whether an answer of a model, which may be any text, has a meaning."""
        ...

    def submitted(self, answer: str) -> str:
        """Return the word of the test server for an answer, or for what replaces it."""
        ...

    def read_submitted(self, word: str) -> str | None:
        """Return the answer that a word of a submission stands for; `None` if there is none."""
        ...

    def share(self, prediction: str, answer: str) -> float:
        """Return how right one prediction is, in [0, 1]."""
        ...


@dataclass(frozen=True, slots=True)
class Classes:
    """A few classes.

    Args:
        words: {number of the class, as text: its word in files and submissions}.
        placeholder: Number of the class that is most frequent in the training set.
        names: Names of the classes in the order of their numbers, if `words` are numbers.
    """

    words: Mapping[str, str]
    placeholder: str
    names: Sequence[str] | None = None

    @property
    def meanings(self) -> dict[str, str]:
        """The name of each class, by its number."""
        names = self.names or tuple(self.words.values())
        return dict(zip(self.words, names, strict=True))

    @property
    def described(self) -> str:
        return " or ".join(map(repr, self.words.values()))

    @property
    def answers(self) -> str:
        return " or ".join(map(repr, self.words))

    def target(self, label: str) -> str | None:
        return next((number for number, word in self.words.items() if word == label), None)

    def official(self, label: str) -> str:
        return next(number for number, word in self.words.items() if word == label)

    def is_valid(self, answer: str) -> bool:
        return answer.strip() in self.words

    def submitted(self, answer: str) -> str:
        return self.words.get(answer.strip(), self.words[self.placeholder])

    def read_submitted(self, word: str) -> str | None:
        return self.target(word)

    def share(self, prediction: str, answer: str) -> float:
        return float(prediction.strip() == answer.strip())


# The classes of tasks whose files contain their numbers.
BINARY = {"0": "0", "1": "1"}


class Similarity:
    """A number from 0 to 5."""

    described = "a number from 0 to 5"
    answers = "numbers from 0 to 5"
    placeholder = "2.5"

    def target(self, label: str) -> str | None:
        """Return a score rounded to tenths as the paper's code rounds it.

        The score passes through single precision, and halves are rounded to even numbers: 4.25
        becomes "4.2", and 0.850 becomes "0.9" because it is slightly more in single precision.
        """
        if not is_decimal(label, 0, MAX_SIMILARITY):
            return None
        (single,) = struct.unpack("f", struct.pack("f", float(label)))
        return str(round(single * 5 / 5 * 10) / 10)

    def official(self, label: str) -> str:
        return label

    def is_valid(self, answer: str) -> bool:
        return 0 <= read_number(answer.strip()) <= MAX_SIMILARITY

    def submitted(self, answer: str) -> str:
        number = read_number(answer.strip())
        clipped = 0.0 if math.isnan(number) else max(0.0, min(MAX_SIMILARITY, number))
        return f"{clipped:.3f}"

    def read_submitted(self, word: str) -> str | None:
        return word if self.target(word) is not None else None

    def share(self, prediction: str, answer: str) -> float:
        """Return 1 for the correct number, falling to 0 at a distance of one point.

        Correlations belong to a split and not to one example, so this is a measure of our own: half
        a point from the correct number, a prediction is half right.
        """
        distance = abs(read_number(prediction.strip()) - read_number(answer.strip()))
        return 0.0 if math.isnan(distance) else max(0.0, 1.0 - distance)
