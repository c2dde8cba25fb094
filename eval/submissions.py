"""Do predictions answer exactly the examples they should?"""

from collections.abc import Collection, Hashable

from eval.errors import PredictionError

__all__ = ["first_five", "require_same_ids"]


def first_five(ids: Collection[object]) -> str:
    """Return up to five ids for a message, and a hint of how many more there are."""
    shown = ", ".join(str(id_) for id_, _ in zip(ids, range(5), strict=False))
    return shown if len(ids) <= 5 else f"{shown}, ... ({len(ids) - 5:,} more)"


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
    found = []
    if missing:
        found.append(f"{len(missing):,} have no prediction ({first_five(missing)})")
    if extra:
        found.append(f"{len(extra):,} predictions are of other examples ({first_five(extra)})")
    raise PredictionError(
        f"predictions do not match the {len(expected_ids):,} examples: {' and '.join(found)}; "
        "expected one for each. Is this the right split, and did the run finish?"
    )
