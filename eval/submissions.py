"""Checks that predictions match the expected examples."""

import re
import unicodedata
from collections.abc import Collection, Hashable, Mapping
from typing import Any

from eval.errors import PredictionError
from eval.text import counted

__all__ = ["first_five", "require_predictions", "require_same_ids"]

DIGITS = re.compile(r"\d+")
SUFFIX = re.compile(r"\.(jpe?g|png|json)$")


def first_five(ids: Collection[object]) -> str:
    """Return up to five IDs for a message, shortened, and the number of the others."""
    shown = ", ".join(f"{id_!s:.60}" for id_, _ in zip(ids, range(5), strict=False))
    return shown if len(ids) <= 5 else f"{shown}, ... ({len(ids) - 5:,} more)"


def require_predictions(predictions: Any, *, text_ids: bool = True) -> Any:
    """Return the predictions after checking that they are {example ID: answer}.

    Args:
        predictions: {example ID: answer}.
        text_ids: Whether the IDs must be strings, as for every task.

    Raises:
        PredictionError: They have another type; the message names the first wrong entry.
    """
    if not isinstance(predictions, Mapping):
        raise PredictionError(
            f"predictions are a {type(predictions).__name__}: expected a dictionary, {{example ID: "
            "answer}"
        )
    for id_, answer in predictions.items():
        if text_ids and not isinstance(id_, str):
            raise PredictionError(
                f"IDs of predictions must be strings: found {id_!r:.60} ({type(id_).__name__}), "
                f"expected {str(id_)!r:.60}. Convert them with str()."
            )
        if not isinstance(answer, str):
            raise PredictionError(
                f"the answer to {id_!r:.60} is {answer!r:.60} ({type(answer).__name__}): expected "
                "a string"
            )
    return predictions


def require_same_ids(expected: Collection[Hashable], predicted: Collection[Hashable]) -> None:
    """Check that there is a prediction for each expected example and no other.

    Raises:
        PredictionError: Predictions are missing or extra; the message counts and lists them.
    """
    expected_ids, predicted_ids = set(expected), set(predicted)
    if expected_ids == predicted_ids:
        return
    missing = [id_ for id_ in expected if id_ not in predicted_ids]
    extra = [id_ for id_ in predicted if id_ not in expected_ids]
    if same := {str(id_) for id_ in missing} & {str(id_) for id_ in extra}:
        wanted, given = (next(id_ for id_ in ids if str(id_) in same) for ids in (missing, extra))
        raise PredictionError(
            f"the IDs of predictions have the wrong type: found {given!r:.60} "
            f"({type(given).__name__}), expected {wanted!r:.60} ({type(wanted).__name__}). Convert "
            "them."
        )
    found = []
    if missing:
        found.append(
            f"{counted(len(missing), 'has', 'have')} no prediction ({first_five(missing)})"
        )
    if extra:
        belong = counted(
            len(extra),
            "prediction belongs to another example",
            "predictions belong to other examples",
        )
        found.append(f"{belong} ({first_five(extra)})")
    similar = {_plain(id_) for id_ in missing} & {_plain(id_) for id_ in extra}
    hint = (
        f" {counted(len(similar), 'ID differs', 'IDs differ')} only in case, spaces, leading zeros "
        "or a suffix."
        if similar
        else ""
    )
    raise PredictionError(
        f"predictions do not match the {counted(len(expected_ids), 'example')}: "
        f"{' and '.join(found)}; expected one per example. Check the split, and whether the run "
        f"finished.{hint}"
    )


def _plain(id_: object) -> str:
    """Return an ID without the parts that programs often add or drop."""
    text = unicodedata.normalize("NFC", str(id_)).strip().casefold()
    return DIGITS.sub(lambda match: match[0].lstrip("0"), SUFFIX.sub("", text))
