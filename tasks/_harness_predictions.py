"""Predictions of evaluation harnesses, matched to the examples of a split.

Harnesses number the rows of their own data sets. An answer is matched to an example by the first
rule that holds for all rows of a file:

1. A field of the file holds the example's ID, perhaps without its leading zeros, which
   spreadsheets drop.
2. The row's number is that of the example in the split, and the row's text contains its question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.errors import PredictionError
from eval.submissions import first_five
from eval.text import counted
from tasks._examples import ExampleTable
from tasks._harness_rows import HarnessFile, HarnessRow, read_harness_file
from tasks._records import repeated_ids
from tasks._task import Task

__all__ = ["FoundPredictions", "read_any_predictions"]

# Names of fields with IDs, in the data sets of both harnesses, from the most to the least specific.
ID_FIELDS = ("question_id", "questionId", "identifier", "image_id", "id", "idx", "index")


@dataclass(frozen=True, slots=True)
class FoundPredictions:
    """Predictions, and how they were read.

    Args:
        answers: {example ID: answer}.
        notes: How the file was understood, one sentence each; empty for the task's own format.
    """

    answers: dict[str, str]
    notes: tuple[str, ...] = ()


def read_any_predictions(task: Task, path: Path, data_root: Path, split: str) -> FoundPredictions:
    """Read a predictions file in the task's official format, or in that of a harness.

    Args:
        task: The task.
        path: The file. Its content tells the format.
        data_root: Folder with the annotations.
        split: Split of the predictions.

    Raises:
        InputError: There is no such file or split.
        FileFormatError: The file has no known format, or is damaged.
        PredictionError: The answers cannot be matched to the examples of the split.
    """
    is_official = task.is_predictions_file is not None and task.is_predictions_file(path)
    found = None if is_official else read_harness_file(path)
    if found is None:
        return FoundPredictions(task.read_predictions(path))
    examples = task.read_examples(data_root, split)
    place = f"{path} ({found.program})"
    if field := _id_field(found, examples):
        official = _ids_by_plain_id(examples)
        ids = [official[_plain(row.fields[field])] for row in found.rows]
        how = f"{field} holds the IDs"
    elif _rows_are_in_order(found.rows, examples):
        ids = [examples[row.number].id for row in found.rows]
        how = "the rows are numbered as the split, and all questions are the same"
    else:
        raise _unmatched(place, found, examples, f"{task.name} {split}")
    if repeated := repeated_ids(ids):
        raise PredictionError(
            f"{place}: {counted(len(repeated), 'example has', 'examples have')} more than one "
            f"answer ({first_five(repeated)}); expected one each"
        )
    answers = {id_: row.answer for id_, row in zip(ids, found.rows, strict=True)}
    return FoundPredictions(answers, (f"read as predictions of {found.program}: {how}",))


def _id_field(found: HarnessFile, examples: ExampleTable) -> str | None:
    """Return the field that holds IDs of the split in all rows; `None` if there is none."""
    official = _ids_by_plain_id(examples)
    for field in _candidates(found):
        if all(_plain(row.fields.get(field, "")) in official for row in found.rows):
            return field
    return None


def _candidates(found: HarnessFile) -> list[str]:
    """Return the fields that may hold IDs, the most specific first."""
    names = dict.fromkeys(name for row in found.rows[:1] for name in row.fields)
    ranked = [(name, name.rpartition(".")[2]) for name in names]
    return [name for field in ID_FIELDS for name, last in ranked if last == field]


def _ids_by_plain_id(examples: ExampleTable) -> dict[str, str]:
    """Return {ID without leading zeros: ID}, without those that stand for several IDs."""
    ids = examples.ids()
    ambiguous = set(repeated_ids(map(_plain, ids)))
    return {_plain(id_): id_ for id_ in ids if _plain(id_) not in ambiguous}


def _plain(id_: str) -> str:
    return id_.lstrip("0") or id_[-1:]


def _rows_are_in_order(rows: Sequence[HarnessRow], examples: ExampleTable) -> bool:
    numbers = [row.number for row in rows]
    if not rows or max(numbers) >= len(examples) or min(numbers) < 0:
        return False
    texts = [examples[number].text for number in numbers]
    # A text that all examples share says nothing about their order.
    is_telling = len(set(texts)) > 1 or len(examples) == 1
    return is_telling and all(
        text and text in row.text for text, row in zip(texts, rows, strict=True)
    )


def _unmatched(
    place: str, found: HarnessFile, examples: ExampleTable, split: str
) -> PredictionError:
    fields = _candidates(found)
    shown = [f"{name} ({found.rows[0].fields[name]:.40})" for name in fields]
    sample = examples.ids()[0]
    return PredictionError(
        f"{place}: the {counted(len(found.rows), 'answer')} cannot be matched to the "
        f"{counted(len(examples), 'example')} of {split}: found "
        f"{', '.join(shown) or 'no field with IDs'}, and other questions or another order than in "
        f"the split; expected a field with its IDs, such as {sample}, named one of "
        f"{', '.join(ID_FIELDS)}, or one row per example in the split's order. Check the split."
    )
