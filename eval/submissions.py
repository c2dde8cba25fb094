"""Do predictions answer exactly the examples they should?"""

import re
import unicodedata
from collections.abc import Collection, Hashable, Mapping
from typing import Any

from eval.errors import PredictionError

__all__ = ["first_five", "require_predictions", "require_same_ids"]

DIGITS = re.compile(r"\d+")
SUFFIX = re.compile(r"\.(jpe?g|png|json)$")


def first_five(ids: Collection[object]) -> str:
    """Return up to five ids, shortened, for a message, and a hint of how many more there are."""
    shown = ", ".join(f"{id_!s:.60}" for id_, _ in zip(ids, range(5), strict=False))
    return shown if len(ids) <= 5 else f"{shown}, ... ({len(ids) - 5:,} more)"


def require_predictions(predictions: Any, *, text_ids: bool = True) -> Any:
    """Return predictions if they are a dictionary of texts.

    Args:
        predictions: {example id: answer}.
        text_ids: Whether the ids must be texts, as every task has them.

    Raises:
        PredictionError: They are something else; the message names the first that is wrong.
    """
    if not isinstance(predictions, Mapping):
        raise PredictionError(
            f"predictions are a {type(predictions).__name__}: expected a dictionary, {{example id: "
            "answer}"
        )
    for id_, answer in predictions.items():
        if text_ids and not isinstance(id_, str):
            raise PredictionError(
                f"ids of predictions must be texts: found {id_!r:.60} ({type(id_).__name__}), "
                f"expected {str(id_)!r:.60}. Convert them with str()."
            )
        if not isinstance(answer, str):
            raise PredictionError(
                f"the answer to {id_!r:.60} is {answer!r:.60} ({type(answer).__name__}): expected "
                "a text"
            )
    return predictions


def require_same_ids(expected: Collection[Hashable], predicted: Collection[Hashable]) -> None:
    """Check that each expected example has a prediction and no prediction is left over.

    Raises:
        PredictionError: Some are missing or extra; the message counts them and names the first.
    """
    expected_ids, predicted_ids = set(expected), set(predicted)
    if expected_ids == predicted_ids:
        return
    missing = [id_ for id_ in expected if id_ not in predicted_ids]
    extra = [id_ for id_ in predicted if id_ not in expected_ids]
    if same := {str(id_) for id_ in missing} & {str(id_) for id_ in extra}:
        wanted, given = (next(id_ for id_ in ids if str(id_) in same) for ids in (missing, extra))
        raise PredictionError(
            f"the ids of predictions are of another type: found {given!r:.60} "
            f"({type(given).__name__}), expected {wanted!r:.60} ({type(wanted).__name__}). Convert "
            "them."
        )
    found = []
    if missing:
        found.append(f"{len(missing):,} have no prediction ({first_five(missing)})")
    if extra:
        found.append(f"{len(extra):,} predictions are of other examples ({first_five(extra)})")
    near = {_plain(id_) for id_ in missing} & {_plain(id_) for id_ in extra}
    hint = (
        f" {len(near):,} ids differ only in letter case, spaces, zeros before a number or a suffix."
        if near
        else ""
    )
    raise PredictionError(
        f"predictions do not match the {len(expected_ids):,} examples: {' and '.join(found)}; "
        f"expected one for each. Is this the right split, and did the run finish?{hint}"
    )


def _plain(id_: object) -> str:
    """Return an id without what programs often add to or drop from ids."""
    text = unicodedata.normalize("NFC", str(id_)).strip().casefold()
    return DIGITS.sub(lambda match: match[0].lstrip("0"), SUFFIX.sub("", text))
