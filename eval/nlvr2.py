"""NLVR2's accuracy and consistency exactly as the official `metrics.py` computes them.

Accuracy is the share of statements judged right; consistency is the share of sentences judged
right beside every pair of images they were written for (Suhr et al., arXiv 1811.00491). Both are
fractions. A sentence is known by its identifier without the pair, not by its text.

The official script looks past much that is wrong with a predictions file: a space after the comma
makes an answer wrong, rows of other statements are ignored, later rows replace earlier ones. Here
such lines are errors, unless `strict_official` asks for what the script makes of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.errors import PredictionError
from eval.files import open_text
from eval.submissions import first_five, require_predictions, require_same_ids

__all__ = ["LABELS", "Nlvr2Scores", "read_label_lines", "score_nlvr2"]

LABELS = ("True", "False")
MOST_FAULTS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Nlvr2Scores:
    """Fractions, unrounded.

    Args:
        accuracy: Statements judged right.
        consistency: Sentences judged right wherever they occur.
        per_example: Whether each statement was judged right.
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
        predictions: {identifier: answer}; "true" and "false" in any case may be right, all else is
            wrong.
        labels: {identifier: "True" or "False"}, identifiers being "split-set-pair-sentence".
        strict_official: Ignore predictions of other statements, as the official script does.

    Raises:
        PredictionError: Predictions are missing or there are some for other statements.
        ValueError: There are no labels.
    """
    if not labels:
        raise ValueError("there are no labels to score against")
    require_predictions(predictions)
    if strict_official:
        _require_enough(predictions, labels)
    else:
        require_same_ids(labels, predictions)
    right = {id_: predictions[id_].lower() == label.lower() for id_, label in labels.items()}
    consistent: dict[str, bool] = {}
    for id_, each in right.items():
        sentence = _sentence_of(id_)
        consistent[sentence] = consistent.get(sentence, True) and each
    return Nlvr2Scores(
        accuracy=sum(right.values()) / len(right),
        consistency=sum(consistent.values()) / len(consistent),
        per_example=right,
    )


def read_label_lines(path: Path, *, strict_official: bool = False) -> dict[str, str]:
    """Read a predictions file: `identifier,True` or `identifier,False` on each line, no header.

    A line may end after its comma where there is no answer, which is always wrong.

    Args:
        path: The file.
        strict_official: Take the lines for what the official script takes them.

    Raises:
        InputError: There is no such file.
        FileFormatError: It is not text.
        PredictionError: The official script would misread lines, or stop at one.
    """
    # The official script takes a byte-order mark for a part of the first identifier.
    with open_text(
        path,
        expected="predictions, lines such as `dev-850-0-0,False`",
        keep_byte_order_mark=True,
    ) as file:
        lines = file.readlines()
    return _as_the_script_reads(path, lines) if strict_official else _as_meant(path, lines)


def _as_meant(path: Path, lines: list[str]) -> dict[str, str]:
    predictions: dict[str, str] = {}
    line_of: dict[str, int] = {}
    faults = []
    if lines and lines[0].startswith("\ufeff"):
        raise PredictionError(
            f"{path} begins with a byte-order mark, which the official script takes for a part of "
            "the first identifier; expected plain UTF-8. Save the file without the mark."
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
        more = len(faults) - MOST_FAULTS_SHOWN
        raise PredictionError(
            f"{path}: {'; '.join(faults[:MOST_FAULTS_SHOWN])}"
            f"{f'; {more:,} more such lines' if more > 0 else ''}. Expected one line "
            "`identifier,True` or `identifier,False` for each statement, and nothing else; the "
            "official script reads other lines wrongly without a word. Mend them, or ask for "
            "its reading with --strict-official."
        )
    return predictions


def _fault(line: str) -> str | None:
    if not line.strip():
        return "is blank"
    identifier, *columns = line.split(",")
    if len(columns) != 1:
        return f"has {1 + len(columns)} columns, not 2"
    (label,) = columns
    if identifier != identifier.strip().lstrip("\ufeff") or label != label.strip():
        return f"has spaces or invisible marks in {line!r:.60}"
    if label in (*LABELS, ""):
        return None
    if label.capitalize() in LABELS:
        return f"says {label!r} in the wrong case, not {label.capitalize()!r}"
    return f"says {label!r:.40}, neither 'True' nor 'False'"


def _as_the_script_reads(path: Path, lines: list[str]) -> dict[str, str]:
    predictions = {}
    for number, line in enumerate(lines, 1):
        identifier, *columns = line.strip().split(",")
        if not columns:
            raise PredictionError(
                f"{path}: line {number} has no comma, where the official script stops with an "
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
