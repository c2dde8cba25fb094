"""Predictions files with a list of JSON objects, the format of most public test servers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.errors import PredictionError
from eval.outputs import write_json
from eval.submissions import first_five
from eval.text import counted
from tasks._records import Records, read_records, repeated_ids

__all__ = ["TEXT_RESULTS", "ResultsFormat", "text_id"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsFormat:
    """The format of a task's predictions files.

    Args:
        id_field: Field with the example ID.
        answer_field: Field with the answer, a string.
        sample: A file with a single answer, for messages.
        id_kind: Type of the IDs in the file.
        read_id: (objects, position) -> ID. Default: reads a field of the type `id_kind`.
    """

    id_field: str
    answer_field: str
    sample: str
    id_kind: type[int] | type[str]
    read_id: Callable[[Records, int], str] | None = None

    def read(self, path: Path, *, last_wins: bool = False) -> dict[str, str]:
        """Read a predictions file as {example ID: answer}.

        Args:
            path: The file, a JSON list or JSON Lines.
            last_wins: Whether to take the last of several answers to one example, as official
                scripts do.

        Raises:
            InputError: There is no such file.
            FileFormatError: The file has another format.
            PredictionError: An example has more than one answer.
        """
        results = read_records(
            path, expected=f"predictions, {self.sample}", line_field=self.id_field
        )
        read_id = self.read_id or self._read_field
        ids = [read_id(results, position) for position in range(len(results))]
        if not last_wins and (repeated := repeated_ids(ids)):
            raise PredictionError(
                f"{path}: {counted(len(repeated), 'example has', 'examples have')} more than one "
                f"{self.answer_field} ({first_five(repeated)}); expected one each. Remove the "
                "duplicates: other programs may silently take the last."
            )
        return {
            id_: results.field(position, self.answer_field, str) for position, id_ in enumerate(ids)
        }

    def write(self, predictions: Mapping[str, str], path: Path) -> None:
        """Write {example ID: answer} atomically.

        Raises:
            PredictionError: An ID cannot be converted to `id_kind`.
            OutputError: The file cannot be written.
        """
        results = [
            {self.id_field: self._convert_id(id_), self.answer_field: answer}
            for id_, answer in predictions.items()
        ]
        write_json(path, results, indent=None)

    def _convert_id(self, id_: str) -> int | str:
        try:
            return self.id_kind(id_)
        except ValueError:
            raise PredictionError(
                f"the prediction of {id_!r:.60} cannot be written: expected an integer as its "
                f"{self.id_field}, such as {self.sample}"
            ) from None

    def _read_field(self, results: Records, position: int) -> str:
        return str(results.field(position, self.id_field, self.id_kind))


def text_id(records: Records, position: int) -> str:
    """Return the ID of the object at `position`, a string or an integer, as text.

    Raises:
        FileFormatError: It is missing or has another type.
    """
    row = records.rows[position]
    if isinstance(row, dict) and type(row.get("id")) is int:
        return str(row["id"])
    return records.field(position, "id", str, expected="a string or an integer")


# Predictions of examples whose IDs are texts.
TEXT_RESULTS = ResultsFormat(
    id_field="id",
    answer_field="answer",
    sample='[{"id": "kitchen-1", "answer": "a cup"}]',
    id_kind=str,
    read_id=text_id,
)
