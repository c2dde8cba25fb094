"""Points that predictions lose by form alone: case, spaces, a final period, form of Unicode.

The rules of GQA, and of a user's own labels, compare texts exactly. Scores stay what these rules
say; a note reports what form alone costs.
"""

import unicodedata
from collections.abc import Callable, Sequence

__all__ = ["FormLosses"]


class FormLosses:
    """Count of predictions that would score more if they were written like the right answer."""

    def __init__(self) -> None:
        self._examples = 0
        self._affected = 0
        self._lost = 0.0

    def see(
        self, prediction: str, answers: Sequence[str], accuracy_of: Callable[[str], float]
    ) -> None:
        """Count one example.

        Args:
            prediction: The predicted answer.
            answers: The right answers.
            accuracy_of: Returns the accuracy, in [0, 1], of an answer to this example.
        """
        self._examples += 1
        if prediction in answers:
            return
        form = _without_form(prediction)
        alike = [answer for answer in answers if _without_form(answer) == form]
        if not alike:
            return
        lost = max(map(accuracy_of, alike)) - accuracy_of(prediction)
        if lost > 0:
            self._affected += 1
            self._lost += lost

    def notes(self) -> tuple[str, ...]:
        """Return one sentence about the losses, or nothing if there are none."""
        if not self._affected:
            return ()
        points = 100 * self._lost / self._examples
        return (
            f"{self._affected:,} of {self._examples:,} predictions differ from a right answer only "
            "in case, spaces or a final period (or in the Unicode form of a letter), which costs "
            f"{points:.2f} percentage points. The rules compare texts exactly: write answers as "
            "the annotations do.",
        )


def _without_form(text: str) -> str:
    folded = unicodedata.normalize("NFC", text).casefold()
    return " ".join(folded.split()).removesuffix(".").rstrip()
