"""Points that predictions lose only through their formatting: case, spaces, a final period.

GQA and users' own labels are scored by exact match. The scores stay as these rules give them; a
note reports how much formatting alone costs.
"""

import unicodedata
from collections.abc import Callable, Sequence

__all__ = ["FormattingLosses", "exact_match"]


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 if a prediction equals the first answer, else 0."""
    return float(prediction == answers[0])


class FormattingLosses:
    """Counts predictions that would score more if they were formatted like a correct answer."""

    def __init__(self) -> None:
        self._examples = 0
        self._affected = 0
        self._lost = 0.0

    def add(
        self,
        prediction: str,
        answers: Sequence[str],
        accuracy: Callable[[str, Sequence[str]], float] = exact_match,
    ) -> None:
        """Count one example.

        Args:
            prediction: The predicted answer.
            answers: The correct answers.
            accuracy: (prediction, answers) -> accuracy in [0, 1].
        """
        self._examples += 1
        if prediction in answers:
            return
        plain = _without_formatting(prediction)
        same = [answer for answer in answers if _without_formatting(answer) == plain]
        if not same:
            return
        lost = max(accuracy(answer, answers) for answer in same) - accuracy(prediction, answers)
        if lost > 0:
            self._affected += 1
            self._lost += lost

    def notes(self) -> tuple[str, ...]:
        """Return one sentence about the losses, or nothing if there are none."""
        if not self._affected:
            return ()
        points = 100 * self._lost / self._examples
        return (
            f"{self._affected:,} of {self._examples:,} predictions differ from a correct answer "
            "only in case, spaces, a final period or Unicode normalization, which costs "
            f"{points:.2f} percentage points. Answers are compared by exact match: format "
            "predictions like the annotations.",
        )


def _without_formatting(text: str) -> str:
    folded = unicodedata.normalize("NFC", text).casefold()
    return " ".join(folded.split()).removesuffix(".").rstrip()
