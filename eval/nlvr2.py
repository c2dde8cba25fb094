"""NLVR2's accuracy and consistency exactly as the official `metrics.py` computes them.

Accuracy is the share of statements judged correctly. Consistency is the share of sentences judged
correctly for every pair of images (Suhr et al., arXiv 1811.00491). Both are fractions. A sentence
is identified by its identifier without the pair, not by its text.

The official script silently accepts malformed predictions files: a space after the comma makes an
answer wrong, rows of other statements are ignored, and later rows replace earlier ones. Here such
lines are errors, unless `strict_official` is set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.errors import PredictionError
from eval.files import open_text
from eval.submissions import first_five, require_predictions, require_same_ids
from eval.text import counted

__all__ = ["LABELS", "Nlvr2Scores", "nlvr2_metrics", "read_label_lines", "score_nlvr2"]

LABELS = ("True", "False")
MAX_SHOWN_FAULTS = 5


@dataclass(frozen=True, slots=True)
class Nlvr2Scores:
    """NLVR2's metrics, as unrounded fractions.

    Args:
        accuracy: Statements judged correctly.
        consistency: Sentences judged correctly for all pairs of images.
        per_example: Whether each statement was judged correctly.
    """

    accuracy: float
    consistency: float
    per_example: Mapping[str, bool]


def score_nlvr2(
    predictions: Mapping[str, str],
    labels: Mapping[str, str],
    *,
    strict_official: bool = False,
) -> Nlvr2Scores:
    """Score predictions against official labels.

    Args:
        predictions: {identifier: answer}. Answers are compared ignoring case.
        labels: {identifier: "True" or "False"}, with identifiers "split-set-pair-sentence".
        strict_official: Whether to ignore predictions for other statements, as the official script
            does.

    Raises:
        PredictionError: Predictions are missing or belong to other statements.
        ValueError: There are no labels.
    """
    if not labels:
        raise ValueError("there are no labels to score against")
    require_predictions(predictions)
    if strict_official:
        _require_enough(predictions, labels)
    else:
        require_same_ids(labels, predictions)
    correct = {id_: predictions[id_].lower() == label.lower() for id_, label in labels.items()}
    consistent: dict[str, bool] = {}
    for id_, each in correct.items():
        sentence = _sentence_of(id_)
        consistent[sentence] = consistent.get(sentence, True) and each
    return Nlvr2Scores(
        accuracy=sum(correct.values()) / len(correct),
        consistency=sum(consistent.values()) / len(consistent),
        per_example=correct,
    )


def nlvr2_metrics(predictions: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, float]:
    """Return the official metrics of a set of statements, as unrounded fractions.

    Args:
        predictions: {identifier: answer}. Answers are compared ignoring case.
        labels: {identifier: "True" or "False"}, with identifiers "split-set-pair-sentence".

    Returns:
        `accuracy` and `consistency`.

    Raises:
        PredictionError: Predictions are missing or belong to other statements.
        ValueError: There are no labels.
    """
    scores = score_nlvr2(predictions, labels)
    return {"accuracy": scores.accuracy, "consistency": scores.consistency}


def read_label_lines(path: Path, *, strict_official: bool = False) -> dict[str, str]:
    """Read a predictions file: `identifier,True` or `identifier,False` on each line, no header.

    The label may be empty, which is always wrong.

    Args:
        path: The file.
        strict_official: Whether to read malformed lines as the official script does.

    Raises:
        InputError: There is no such file.
        FileFormatError: The file is not text.
        PredictionError: The official script would misread lines, or stop at one.
    """
    # The official script reads a byte-order mark as part of the first identifier.
    with open_text(
        path,
        expected="predictions, lines such as `dev-850-0-0,False`",
        keep_byte_order_mark=True,
    ) as file:
        lines = file.readlines()
    return _parse_as_official(path, lines) if strict_official else _parse(path, lines)


def _parse(path: Path, lines: list[str]) -> dict[str, str]:
    predictions: dict[str, str] = {}
    line_of: dict[str, int] = {}
    faults = []
    if lines and lines[0].startswith("\ufeff"):
        raise PredictionError(
            f"{path} begins with a byte-order mark, which the official script reads as part of the "
            "first identifier; expected plain UTF-8. Save the file without the mark."
        )
    for number, line in enumerate(lines, 1):
        identifier, _, label = line.rstrip("\n").partition(",")
        fault = _fault(line.rstrip("\n"))
        if fault is None and identifier in line_of:
            fault = f"answers {identifier} again after line {line_of[identifier]}"
        if fault is not None:
            faults.append(f"line {number} {fault}")
        predictions[identifier] = label
        line_of.setdefault(identifier, number)
    if faults:
        more = len(faults) - MAX_SHOWN_FAULTS
        raise PredictionError(
            f"{path}: {'; '.join(faults[:MAX_SHOWN_FAULTS])}"
            f"{'; ' + counted(more, 'more such line') if more > 0 else ''}. Expected one line "
            "`identifier,True` or `identifier,False` per statement, and nothing else; the official "
            "script silently misreads other lines. Fix them, or read them as the official script "
            "does with --strict-official."
        )
    return predictions


def _fault(line: str) -> str | None:
    if not line.strip():
        return "is blank"
    identifier, *columns = line.split(",")
    if len(columns) != 1:
        return f"has {counted(1 + len(columns), 'column')}, not 2"
    (label,) = columns
    if identifier != identifier.strip().lstrip("\ufeff") or label != label.strip():
        return f"has spaces or invisible marks in {line!r:.60}"
    if label in (*LABELS, ""):
        return None
    if label.capitalize() in LABELS:
        return f"has the label {label!r}, not {label.capitalize()!r}"
    return f"has the label {label!r:.40}, neither 'True' nor 'False'"


def _parse_as_official(path: Path, lines: list[str]) -> dict[str, str]:
    predictions = {}
    for number, line in enumerate(lines, 1):
        identifier, *columns = line.strip().split(",")
        if not columns:
            raise PredictionError(
                f"{path}: line {number} has no comma, so the official script stops with an "
                "IndexError; expected `identifier,True` or `identifier,False`"
            )
        predictions[identifier] = columns[0]
    return predictions


def _require_enough(predictions: Mapping[str, str], labels: Mapping[str, str]) -> None:
    if missing := [id_ for id_ in labels if id_ not in predictions]:
        raise PredictionError(
            f"{len(missing):,} of the {len(labels):,} statements have no prediction "
            f"({first_five(missing)}), so the official script gives no scores"
        )


def _sentence_of(identifier: str) -> str:
    parts = identifier.split("-")
    return "-".join([*parts[:2], "", *parts[3:]])
