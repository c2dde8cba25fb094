"""Predictions as a JSON list with one object for each example, as most public servers take them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.errors import PredictionError
from eval.outputs import write_json
from eval.submissions import first_five
from tasks._records import Records, read_records, repeated_ids

__all__ = ["ResultsFormat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsFormat:
    """How a task's predictions files are written, and read again.

    Args:
        id_field: Holds the example's id.
        answer_field: Holds the answer, a text.
        sample: The whole file with a single answer, for messages.
        id_kind: What ids are in the file.
        read_id: (objects, position) -> id, where more is to be said of it than its kind.
    """

    id_field: str
    answer_field: str
    sample: str
    id_kind: type[int] | type[str]
    read_id: Callable[[Records, int], str] | None = None

    def read(self, path: Path, *, last_wins: bool = False) -> dict[str, str]:
        """Return {example id: answer}.

        Args:
            path: The file: the list, or its objects on lines of their own.
            last_wins: Of several answers to one example take the last, as official scripts do.

        Raises:
            InputError: There is no such file.
            FileFormatError: It is no such list.
            PredictionError: An example has more than one answer.
        """
        results = read_records(
            path, expected=f"predictions, {self.sample}", line_field=self.id_field
        )
        read_id = self.read_id or self._plain_id
        ids = [read_id(results, position) for position in range(len(results))]
        if not last_wins and (repeated := repeated_ids(ids)):
            raise PredictionError(
                f"{path}: {len(repeated):,} examples have more than one {self.answer_field} "
                f"({first_five(repeated)}); expected one each. Remove the others: other programs "
                "may take the last without a word."
            )
        return {
            id_: results.field(position, self.answer_field, str) for position, id_ in enumerate(ids)
        }

    def write(self, predictions: Mapping[str, str], path: Path) -> None:
        """Write {example id: answer}, atomically.

        Raises:
            PredictionError: An id is not of the kind that the file has.
            OutputError: The file cannot be written.
        """
        results = [
            {self.id_field: self._written_id(id_), self.answer_field: answer}
            for id_, answer in predictions.items()
        ]
        write_json(path, results, indent=None)

    def _written_id(self, id_: str) -> int | str:
        try:
            return self.id_kind(id_)
        except ValueError:
            raise PredictionError(
                f"the prediction of {id_!r:.60} cannot be written: expected an integer as its "
                f"{self.id_field}, such as {self.sample}"
            ) from None

    def _plain_id(self, results: Records, position: int) -> str:
        return str(results.field(position, self.id_field, self.id_kind))
